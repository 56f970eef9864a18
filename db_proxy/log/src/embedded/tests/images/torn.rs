//! Torn writes of what is not proven yet.

use super::*;

/// After so many images there is another log.
const IMAGES_PER_LOG: usize = 2_500;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The bytes up to some place: every place, if there are images enough.
    Prefix,
    /// Any sectors of it.
    Sectors,
    /// All sectors but one.
    AllButOne,
    /// One sector of it.
    OnlyOne,
    /// A marker instead of a batch, of which the bytes up to some place were written.
    Marker,
}

impl Kind {
    const ALL: [Self; 5] =
        [Self::Prefix, Self::Sectors, Self::AllButOne, Self::OnlyOne, Self::Marker];

    const fn name(self) -> &'static str {
        match self {
            Self::Prefix => "the last batch up to some byte",
            Self::Sectors => "any sectors of the last batch",
            Self::AllButOne => "all sectors of it but one",
            Self::OnlyOne => "one sector of it",
            Self::Marker => "a marker up to some byte",
        }
    }
}

#[test]
fn a_torn_write_leaves_everything_that_was_durable_and_of_itself_all_or_nothing() {
    let wanted = images_wanted();
    let mut tally = Tally::default();
    let mut images = 0;
    for kind in Kind::ALL {
        let mut dice = Dice(seed() ^ kind as u64);
        while tally.seen(kind.name()) < wanted {
            let torn = Torn::new(&mut dice, kind == Kind::Marker);
            let places = torn.places(kind);
            if places == 0 {
                continue;
            }
            // In a short run some places of many batches, in a long run all of them.
            let step = (places * 10).div_ceil(wanted.min(IMAGES_PER_LOG * 10));
            for place in (dice.roll(step)..places).step_by(step) {
                images += 1;
                let _told = OnFailure(kind.name(), seed(), images);
                let image = torn.image(kind, place, &mut dice);
                let is_whole = image.contents() == torn.folder.contents();
                let is_right = torn.check(&image, is_whole);
                tally.count(kind.name(), is_right);
                tally.count(if is_whole { "all of it" } else { "not all of it" }, is_right);
                if torn.begin == 0 {
                    tally.count("the first of its segment", is_right);
                }
            }
        }
    }
    let mut expected: Vec<&str> = Kind::ALL.map(Kind::name).to_vec();
    tally.finish("torn writes", &expected, wanted);
    expected = vec!["all of it", "not all of it", "the first of its segment"];
    for what in expected {
        assert!(tally.seen(what) >= wanted / 20, "{what}");
    }
}

/// A log whose last write may or may not have reached the disk.
struct Torn {
    folder: MemoryFolder,
    segment_bytes: u64,
    segment: String,
    begin: usize,
    end: usize,
    durable: Vec<LogRecord>,
    pending: Vec<Bytes>,
}

impl Torn {
    fn new(dice: &mut Dice, is_marker: bool) -> Self {
        loop {
            let written = Written::new(dice);
            let folder = written.folder.after_kill();
            let segment_bytes = written.segment_bytes;
            let mut log = written::open_sized(&folder, segment_bytes, 0).unwrap().log;
            if is_marker {
                log.append(&written::payloads(dice, segment_bytes), 1_000).unwrap();
            }
            let durable = records(&log);
            let before = folder.contents();
            let mut pending = Vec::new();
            if is_marker {
                log.idle().unwrap();
            } else {
                pending = written::payloads(dice, segment_bytes);
                log.append(&pending, 1_000).unwrap();
            }
            let segment = segment::name(*log.writer.segments.back().unwrap());
            let end = usize::try_from(log.writer.position).unwrap();
            let begin = end - format::batch_len(&pending);
            kill(log);
            let zeros = before.get(&segment).is_none_or(|bytes| is_zero(&bytes[begin..]));
            assert!(zeros, "segments are zero before they are written");
            if folder.contents() != before {
                return Self { folder, segment_bytes, segment, begin, end, durable, pending };
            }
        }
    }

    /// How many images of this kind there are; of any sectors there are more.
    fn places(&self, kind: Kind) -> usize {
        let sectors = self.sectors().len();
        match kind {
            Kind::Prefix | Kind::Marker => self.end - self.begin + 1,
            Kind::Sectors => 1 << sectors.min(6),
            Kind::AllButOne | Kind::OnlyOne => sectors,
        }
    }

    /// The parts of the last write that lie in one sector each.
    fn sectors(&self) -> Vec<(usize, usize)> {
        let first = self.begin / memory::SECTOR_LEN;
        let behind = self.end.div_ceil(memory::SECTOR_LEN);
        let part = |sector: usize| {
            let (from, to) = (sector * memory::SECTOR_LEN, (sector + 1) * memory::SECTOR_LEN);
            (from.max(self.begin), to.min(self.end))
        };
        (first..behind).map(part).collect()
    }

    /// The folder, in which something of the last write is still zero.
    fn image(&self, kind: Kind, place: usize, dice: &mut Dice) -> MemoryFolder {
        let image = self.folder.after_kill();
        let lost: Vec<(usize, usize)> = match kind {
            Kind::Prefix | Kind::Marker => vec![(self.begin + place, self.end)],
            Kind::Sectors => self.sectors().into_iter().filter(|_| dice.roll(2) == 0).collect(),
            Kind::AllButOne => vec![self.sectors()[place]],
            Kind::OnlyOne => {
                let mut lost = self.sectors();
                lost.remove(place);
                lost
            }
        };
        image.edit(&self.segment, |bytes| {
            for (from, to) in lost {
                bytes[from..to].fill(0);
            }
        });
        image
    }

    /// Whether the image opens with what it should hold, and goes on as if nothing had been.
    fn check(&self, image: &MemoryFolder, is_whole: bool) -> bool {
        let Ok(opened) = written::open_sized(image, self.segment_bytes, 0) else { return false };
        let mut log = opened.log;
        let found = records(&log);
        let expected_len = self.durable.len() + if is_whole { self.pending.len() } else { 0 };
        if found.len() != expected_len || found[..self.durable.len()] != self.durable {
            return false;
        }
        let of_pending = found[self.durable.len()..].iter().map(|record| &record.payload);
        assert!(of_pending.eq(self.pending.iter().take(expected_len - self.durable.len())));

        log.append(&[Bytes::from_static(b"more")], 0).unwrap();
        let after = records(&log);
        assert_eq!(after[..found.len()], found);
        drop(log);
        let opened = written::open_sized(image, self.segment_bytes, 0).unwrap();
        assert!(opened.clean);
        records(&opened.log) == after
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}
