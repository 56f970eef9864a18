//! Damage to what was acknowledged: it is found, named, and nothing is changed.

use super::*;

#[test]
fn a_flipped_bit_in_an_acknowledged_record_is_always_found() {
    let written = Written::new(1);
    let mut dice = Dice(2);
    for _ in 0..1_500 {
        let image = written.folder.after_kill();
        let (name, place) = written.place(&mut dice);
        image.edit(&name, |bytes| bytes[place] ^= 1 << dice.roll(8));
        check_refused(&image, &name);
    }
}

#[test]
fn a_lost_or_overwritten_sector_is_always_found() {
    let written = Written::new(3);
    let mut dice = Dice(4);
    for _ in 0..500 {
        let image = written.folder.after_kill();
        let (name, place) = written.place(&mut dice);
        let junk = u8::try_from(dice.roll(3) * 100).unwrap();
        // Not the last proof: without it, the last batch looks like one whose append never returned.
        let end = written.end(&name).min(place + 1 + dice.roll(2 * memory::SECTOR_LEN));
        let before = image.contents();
        image.edit(&name, |bytes| bytes[place..end].fill(junk));
        if image.contents() != before {
            check_refused(&image, &name);
        }
    }
}

/// The last batch has no proof, but that it was begun proves what is before it.
#[test]
fn a_damaged_proof_in_front_of_the_last_batch_does_not_make_it_torn() {
    let folder = MemoryFolder::default();
    let mut log = open(&folder, 0).unwrap().log;
    let payloads = Dice(1).payloads(2, 100);
    log.append(&payloads, 0).unwrap();
    let proof = usize::try_from(log.writer.position).unwrap();
    log.idle().unwrap();
    log.append(&payloads, 0).unwrap();
    kill(log);
    folder.edit(&segment::name(1), |bytes| bytes[proof + 30] ^= 1);
    check_refused(&folder, &segment::name(1));
}

#[test]
fn a_file_of_another_length_is_always_found() {
    let written = Written::new(5);
    let mut dice = Dice(6);
    for _ in 0..300 {
        let image = written.folder.after_kill();
        let (name, _) = written.place(&mut dice);
        let len = dice.roll(usize::try_from(SEGMENT_BYTES).unwrap());
        image.edit(&name, |bytes| bytes.truncate(len));
        check_refused(&image, &name);
    }
}

#[test]
fn a_missing_segment_is_found_as_far_as_the_store_or_a_later_one_can_tell() {
    let written = Written::new(7);
    let applied = written.records.last().unwrap().offset.0;
    for name in written.segments() {
        let image = written.folder.after_kill();
        image.remove(&name).unwrap();
        let before = image.contents();
        let refused = open(&image, applied).err();
        let is_old = name != *written.segments().last().unwrap();
        if is_old {
            // The store has what was in this segment. Reading the segment is an error.
            assert!(refused.is_none());
            assert!(matches!(open(&image, 0), Err(LogError::Damaged(_))));
        } else {
            assert!(matches!(refused, Some(LogError::Damaged(_))), "{refused:?}");
            assert_eq!(image.contents(), before);
        }
    }
}

#[test]
fn damage_that_comes_while_the_log_is_open_is_found_by_the_reader() {
    let written = Written::new(8);
    let mut dice = Dice(9);
    for _ in 0..100 {
        let image = written.folder.after_kill();
        let log = open(&image, 0).unwrap().log;
        let (name, place) = written.place(&mut dice);
        image.edit(&name, |bytes| bytes[place] ^= 1 << dice.roll(8));
        let mut read = Vec::new();
        let result = log.read(Offset(1), &mut |record| {
            read.push(record);
            ControlFlow::Continue(())
        });
        let Err(LogError::Damaged(text)) = result else { panic!("{name} {place}: {result:?}") };
        assert!(text.contains(&name), "{text}");
        assert!(written.records.starts_with(&read));
    }
}

#[test]
fn a_flipped_bit_anywhere_else_loses_nothing() {
    let written = Written::new(10);
    let mut dice = Dice(11);
    let names: Vec<String> = written.folder.contents().into_keys().collect();
    for _ in 0..1_000 {
        let image = written.folder.after_kill();
        let name = &names[dice.roll(names.len())];
        image.edit(name, |bytes| {
            let place = dice.roll(bytes.len());
            bytes[place] ^= 1 << dice.roll(8);
        });
        written.check_kept_or_refused(&image);
    }
}

/// A log of several segments, all of which is proven.
struct Written {
    folder: MemoryFolder,
    records: Vec<LogRecord>,
    /// Of each segment, the name and where its last batch with records ends.
    ends: Vec<(String, usize)>,
}

impl Written {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let folder = MemoryFolder::default();
        let mut log = open(&folder, 0).unwrap().log;
        let mut ends: Vec<(String, usize)> = Vec::new();
        while ends.len() < 4 {
            let count = 1 + dice.roll(6);
            log.append(&dice.payloads(count, 400), 5).unwrap();
            let name = segment::name(*log.writer.segments.back().unwrap());
            ends.retain(|(known, _)| *known != name);
            ends.push((name, usize::try_from(log.writer.position).unwrap()));
            if dice.roll(4) == 0 {
                log.idle().unwrap();
            }
        }
        let records = records(&log);
        drop(log);
        Self { folder, records, ends }
    }

    /// A place in an acknowledged batch, or in a marker that another batch follows.
    fn place(&self, dice: &mut Dice) -> (String, usize) {
        let (name, end) = &self.ends[dice.roll(self.ends.len())];
        (name.clone(), dice.roll(*end))
    }

    fn end(&self, name: &str) -> usize {
        self.ends.iter().find(|(known, _)| known == name).expect("a segment").1
    }

    fn segments(&self) -> Vec<String> {
        self.ends.iter().map(|(name, _)| name.clone()).collect()
    }

    /// The log opens with all its records, or it does not open.
    fn check_kept_or_refused(&self, image: &MemoryFolder) {
        let before = image.contents();
        match open(image, 0) {
            Ok(opened) => assert_eq!(records(&opened.log), self.records),
            Err(LogError::Damaged(_)) => assert_eq!(image.contents(), before),
            Err(other) => panic!("{other:?}"),
        }
    }
}

/// The log does not open, says which file is to blame, and leaves it as it is.
fn check_refused(image: &MemoryFolder, name: &str) {
    let before = image.contents();
    match open(image, 0) {
        Err(LogError::Damaged(text)) => {
            assert!(text.contains(name), "{name}: {text}");
            assert!(text.contains("byte"), "{text}");
            assert!(text.contains("offset"), "{text}");
        }
        other => panic!("{name}: {other:?}"),
    }
    assert_eq!(image.contents(), before);
}
