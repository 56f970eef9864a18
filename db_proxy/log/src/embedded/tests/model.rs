//! Random lives of a log against a list of what it should hold.

use proptest::prelude::*;

use super::*;

/// What may happen to a log.
#[derive(Debug, Clone)]
enum Action {
    /// Records of these lengths are appended, at this time.
    Append(Vec<usize>, u64),
    Idle,
    /// The store applies some percentage of what it has not applied, and the log is trimmed.
    Trim(u64),
    Close,
    Kill,
    /// With a seed for which sectors survive.
    PowerCut(u64),
    /// A flush fails, then a change of the disk during the next start, then the power is cut.
    BadStart(u32, u64),
    /// After so many changes of the disk, one fails.
    FailAfter(u32),
    DiskFull,
    DiskFree,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        12 => (prop::collection::vec(0..600_usize, 0..8), 0..1_000_u64)
            .prop_map(|(lens, now_ms)| Action::Append(lens, now_ms)),
        2 => Just(Action::Idle),
        2 => (0..=100_u64).prop_map(Action::Trim),
        1 => Just(Action::Close),
        2 => Just(Action::Kill),
        2 => any::<u64>().prop_map(Action::PowerCut),
        1 => (0..6_u32, any::<u64>()).prop_map(|(more, seed)| Action::BadStart(more, seed)),
        2 => (0..12_u32).prop_map(Action::FailAfter),
        1 => Just(Action::DiskFull),
        1 => Just(Action::DiskFree),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_log_holds_what_was_acknowledged_whatever_happens(
        actions in prop::collection::vec(action(), 1..60)
    ) {
        let mut life = Life::begin();
        for action in actions {
            life.act(action);
            life.check();
        }
        life.restart(|folder| folder.after_power_cut(|| false));
        life.check();
    }
}

/// A log, and what it should hold.
struct Life {
    folder: MemoryFolder,
    log: Option<EmbeddedLog>,
    /// Time and payload of every record ever acknowledged, from offset 1.
    acknowledged: Vec<(u64, Bytes)>,
    /// What was being appended when the process ended, until something takes its place.
    pending: Vec<Bytes>,
    applied: u64,
}

impl Life {
    fn begin() -> Self {
        let folder = MemoryFolder::default();
        let log = Some(open(&folder, 0).unwrap().log);
        Self { folder, log, acknowledged: Vec::new(), pending: Vec::new(), applied: 0 }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Append(lens, now_ms) => self.append(&lens, now_ms),
            Action::Idle => self.with_log(|log| drop(log.idle().unwrap())),
            Action::Trim(percent) => {
                let ahead = self.acknowledged.len() as u64 - self.applied;
                self.applied += ahead * percent / 100;
                let applied = Offset(self.applied);
                self.with_log(|log| log.trim(applied));
            }
            Action::Close => {
                let log = self.log.take();
                let closed = unless_aborted(|| drop(log)).is_some();
                let folder = self.folder.after_kill();
                let clean = self.restart(|_| folder);
                assert!(clean || !closed, "a closed log opens clean");
            }
            Action::Kill => {
                self.restart(MemoryFolder::after_kill);
            }
            Action::PowerCut(seed) => self.cut_power(seed),
            Action::BadStart(more, seed) => {
                self.folder.fail_after(1);
                self.append(&[300, 700], 0);
                if let Some(log) = self.log.take() {
                    kill(log);
                }
                self.folder = self.folder.after_kill();
                self.folder.fail_after(more);
                match unless_aborted(|| open(&self.folder, self.applied)) {
                    Some(Ok(opened)) => self.log = Some(opened.log),
                    Some(Err(LogError::Io { .. })) | None => {}
                    Some(Err(other)) => panic!("{other:?}"),
                }
                self.cut_power(seed);
            }
            Action::FailAfter(more) => self.folder.fail_after(more),
            Action::DiskFull => self.folder.set_room(Some(0)),
            Action::DiskFree => self.folder.set_room(None),
        }
        if self.log.is_none() {
            self.restart(MemoryFolder::after_kill);
        }
    }

    fn append(&mut self, lens: &[usize], now_ms: u64) {
        let fill = u8::try_from(self.acknowledged.len() % 251).unwrap();
        let payloads: Vec<Bytes> = lens.iter().map(|len| vec![fill; *len].into()).collect();
        let log = self.log.as_mut().unwrap();
        match unless_aborted(|| log.append(&payloads, now_ms)) {
            Some(Ok(appended)) => {
                if !payloads.is_empty() {
                    self.pending.clear();
                }
                assert_eq!(appended.len(), payloads.len());
                for (at, (Appended { record, of }, payload)) in
                    appended.iter().zip(payloads).enumerate()
                {
                    assert_eq!(*of, Some(at));
                    assert_eq!(record.offset.0, self.acknowledged.len() as u64 + 1);
                    assert_eq!(record.payload, payload);
                    let time = record.timestamp_ms;
                    assert!(time >= now_ms);
                    assert!(self.acknowledged.last().is_none_or(|(last, _)| *last <= time));
                    self.acknowledged.push((time, payload));
                }
            }
            Some(Err(LogError::Full(_))) => {}
            Some(Err(other)) => panic!("{other:?}"),
            None => {
                self.pending = payloads;
                self.log = None;
            }
        }
    }

    fn with_log(&mut self, run: impl FnOnce(&mut EmbeddedLog)) {
        let log = self.log.as_mut().unwrap();
        if unless_aborted(|| run(log)).is_none() {
            self.log = None;
        }
    }

    fn cut_power(&mut self, seed: u64) {
        let mut dice = Dice(seed);
        self.restart(|folder| folder.after_power_cut(|| dice.roll(2) == 0));
    }

    /// The process ends, and another begins with what `image` makes of the folder. Returns whether
    /// it found a log that was closed.
    fn restart(&mut self, image: impl FnOnce(&MemoryFolder) -> MemoryFolder) -> bool {
        if let Some(log) = self.log.take() {
            kill(log);
        }
        self.folder = image(&self.folder);
        let opened = open(&self.folder, self.applied).unwrap();
        let found = records(&opened.log);
        let next = opened.log.range().1.0;
        let next_acknowledged = self.acknowledged.len() as u64 + 1;
        if next > next_acknowledged {
            // The batch without an answer got to the disk: all of it, and from here on it counts.
            assert_eq!(next - next_acknowledged, self.pending.len() as u64);
            let begin = found.len() - self.pending.len();
            let kept = found[begin..].iter().zip(self.pending.drain(..));
            self.acknowledged.extend(kept.map(|(record, payload)| (record.timestamp_ms, payload)));
        }
        self.log = Some(opened.log);
        opened.clean
    }

    fn check(&self) {
        let log = self.log.as_ref().unwrap();
        let (first, next) = log.range();
        assert_eq!(next.0, self.acknowledged.len() as u64 + 1);
        assert!(first.0 <= self.applied + 1, "{first:?} is held, {} applied", self.applied);
        let expected = (1..).zip(&self.acknowledged).skip(usize::try_from(first.0).unwrap() - 1);
        let found = records(log);
        assert_eq!(found.len() as u64, next.0 - first.0);
        for (record, (offset, (time, payload))) in found.iter().zip(expected) {
            assert_eq!((record.offset.0, record.timestamp_ms), (offset, *time));
            assert_eq!(record.payload, *payload);
            assert_eq!(record.crc, fingerprint(record.offset, *time, payload));
        }
    }
}
