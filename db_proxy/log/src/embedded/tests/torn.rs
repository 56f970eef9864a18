//! Power cuts while a batch is being written: whatever of it reached the disk, all batches before
//! it are there afterwards, and of it nothing or everything.

use super::*;

#[test]
fn a_batch_cut_at_any_byte_leaves_what_was_durable() {
    let mut images = 0;
    for seed in 0..10 {
        let torn = Torn::new(seed, 3);
        let (segment, start) = torn.place();
        let batch = torn.batch(&segment, start);
        for cut in 0..=batch.len() {
            let image = torn.folder.after_power_cut(|| false);
            image.edit(&segment, |bytes| bytes[start..start + cut].copy_from_slice(&batch[..cut]));
            torn.check(&image, batch[cut..].iter().all(|byte| *byte == 0));
            images += 1;
        }
    }
    assert!(images >= 6_000, "{images} images");
}

#[test]
fn a_batch_of_which_any_sectors_reached_the_disk_leaves_what_was_durable() {
    for seed in 100..200 {
        let torn = Torn::new(seed, 6);
        let whole = torn.folder.after_kill().contents();
        let mut dice = Dice(seed);
        for _ in 0..60 {
            let image = torn.folder.after_power_cut(|| dice.roll(2) == 0);
            let is_whole = image.contents() == whole;
            torn.check(&image, is_whole);
        }
    }
}

#[test]
fn what_only_the_page_cache_has_is_written_again_before_it_is_served() {
    let mut dice = Dice(7);
    for seed in 300..400 {
        // The flush failed: the process ended, and what it wrote is still to be seen.
        let torn = Torn::new(seed, 6);
        let image = torn.folder.after_kill();
        let opened = open(&image, 0).unwrap();
        assert!(!opened.clean);
        let served = records(&opened.log);
        kill(opened.log);

        let image = image.after_power_cut(|| dice.roll(2) == 0);
        assert_eq!(records(&open(&image, 0).unwrap().log), served);
    }
}

/// A log that lost its power between the write and the flush of a batch.
struct Torn {
    folder: MemoryFolder,
    durable: Vec<LogRecord>,
    pending: Vec<Bytes>,
}

impl Torn {
    fn new(seed: u64, pending_max: usize) -> Self {
        let mut dice = Dice(seed);
        let folder = MemoryFolder::default();
        let mut log = open(&folder, 0).unwrap().log;
        for now_ms in 0..dice.roll(12) as u64 {
            let count = 1 + dice.roll(8);
            log.append(&dice.payloads(count, 300), now_ms).unwrap();
            if dice.roll(5) == 0 {
                log.idle().unwrap();
            }
        }
        // So that the next batch needs no new segment, where its write would be another change.
        let pending = loop {
            let count = 1 + dice.roll(pending_max);
            let pending = dice.payloads(count, 700);
            if log.writer.position + log.writer.room_for(&pending) <= SEGMENT_BYTES {
                break pending;
            }
            log.append(&pending, 100).unwrap();
        };
        let durable = records(&log);
        folder.fail_after(1);
        assert!(unless_aborted(|| log.append(&pending, 101)).is_none(), "the flush fails");
        Self { folder, durable, pending }
    }

    /// The segment with the torn batch, and where the batch begins.
    fn place(&self) -> (String, usize) {
        let whole = self.folder.contents();
        let durable = self.folder.after_power_cut(|| false).contents();
        let (name, bytes) = whole.iter().find(|(name, bytes)| durable[*name] != **bytes).unwrap();
        let start = bytes.iter().zip(&durable[name]).position(|(one, other)| one != other).unwrap();
        (name.clone(), start)
    }

    fn batch(&self, segment: &str, start: usize) -> Vec<u8> {
        self.folder.contents()[segment][start..start + format::batch_len(&self.pending)].to_vec()
    }

    /// Opens an image and checks it; `is_whole` says if all of the batch is there.
    fn check(&self, image: &MemoryFolder, is_whole: bool) {
        let opened = open(image, 0).unwrap();
        let mut log = opened.log;
        let found = records(&log);
        let (durable, rest) = found.split_at(self.durable.len());
        assert_eq!(durable, self.durable);
        let rest: Vec<Bytes> = rest.iter().map(|record| record.payload.clone()).collect();
        assert_eq!(rest, if is_whole { self.pending.clone() } else { Vec::new() });
        assert!(!is_whole || !opened.clean);

        // It goes on as if nothing had been.
        log.append(&self.pending, 0).unwrap();
        let after = records(&log);
        assert_eq!(after[..found.len()], found);
        drop(log);
        let opened = open(image, 0).unwrap();
        assert!(opened.clean);
        assert_eq!(records(&opened.log), after);
    }
}
