//! Damage to what is proven.

use std::fs;

use super::*;
use crate::embedded::damage::REMEDY;

/// One image in so many is looked at as real files.
const ON_DISK_EVERY: usize = 25;

/// After so many images there is another log.
const IMAGES_PER_LOG: usize = 20;

const LAST_SEGMENT: &str = "in the last segment";
const OLDER_SEGMENT: &str = "in an older segment";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    FlippedBit,
    /// Up to 64 bytes are other ones.
    Overwritten,
    /// Sectors are zero, or junk.
    LostSectors,
    CutAtByte,
    CutAtRecord,
    /// From a byte on, a segment that is not the last one is zero.
    ZeroFromByte,
    ZeroFromRecord,
    /// The last segment is as it was before records that the store has applied.
    OlderThanTheStore,
    LostSegment,
}

impl Kind {
    const ALL: [Self; 9] = [
        Self::FlippedBit,
        Self::Overwritten,
        Self::LostSectors,
        Self::CutAtByte,
        Self::CutAtRecord,
        Self::ZeroFromByte,
        Self::ZeroFromRecord,
        Self::OlderThanTheStore,
        Self::LostSegment,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::FlippedBit => "a flipped bit",
            Self::Overwritten => "up to 64 overwritten bytes",
            Self::LostSectors => "up to four lost sectors",
            Self::CutAtByte => "a file cut at any byte",
            Self::CutAtRecord => "a file cut where a record begins",
            Self::ZeroFromByte => "an older segment zero from any byte on",
            Self::ZeroFromRecord => "an older segment zero from a record on",
            Self::OlderThanTheStore => "a last segment older than the store",
            Self::LostSegment => "a segment that is gone",
        }
    }
}

#[test]
fn damage_to_what_is_proven_is_always_found_and_nothing_is_changed() {
    let wanted = images_wanted();
    let mut dice = Dice(seed());
    let mut tally = Tally::default();
    let mut images = 0;
    for kind in Kind::ALL {
        let mut written = Written::new(&mut dice);
        while tally.seen(kind.name()) < wanted {
            if images % IMAGES_PER_LOG == 0 {
                written = Written::new(&mut dice);
                check_undamaged(&written, &mut tally);
            }
            images += 1;
            let _told = OnFailure(kind.name(), seed(), images);
            let Some(damaged) = Damaged::new(&written, kind, &mut dice) else { continue };
            let is_found = damaged.check_refused();
            tally.count(kind.name(), is_found);
            tally.count(damaged.bytes, is_found);
            tally.count(damaged.segment, is_found);
            if tally.seen(kind.name()) % ON_DISK_EVERY == 0 {
                tally.count("looked at as real files", damaged.check_refused_on_disk());
            }
        }
    }
    let mut expected: Vec<&str> = Kind::ALL.map(Kind::name).to_vec();
    tally.finish("damage", &expected, wanted);
    expected = vec!["in a header", "in a record", "in a marker", LAST_SEGMENT, OLDER_SEGMENT];
    expected.extend([
        "log closed",
        "log killed",
        "log killed when idle",
        "looked at as real files",
    ]);
    for what in expected {
        assert!(tally.seen(what) >= wanted / 100, "{what}");
    }
}

/// The gap that the promise leaves, see the module above: known, and no more than that.
#[test]
fn a_flipped_bit_in_a_last_batch_without_proof_cuts_off_that_batch_and_nothing_else() {
    let wanted = images_wanted();
    let mut dice = Dice(seed());
    let mut tally = Tally::default();
    let name = "a flipped bit in the last batch";
    while tally.seen(name) < wanted {
        let written = Written::new(&mut dice);
        let last = written.pieces.last().unwrap();
        if last.count == 0 || last.base <= written.proven {
            continue;
        }
        for _ in 0..IMAGES_PER_LOG {
            let image = written.folder.after_kill();
            let place = last.begin + dice.roll(last.end - last.begin);
            image.edit(&last.segment, |bytes| bytes[place] ^= 1 << dice.roll(8));
            let opened = written.open(&image, 0).unwrap();
            let kept = usize::try_from(last.base - 1).unwrap();
            tally.count(name, records(&opened.log) == written.records[..kept] && !opened.clean);
        }
    }
    tally.finish("without proof", &[name], wanted);
}

/// What is refused afterwards must be refused for its damage.
fn check_undamaged(written: &Written, tally: &mut Tally) {
    let image = written.folder.after_kill();
    let opened = written.open(&image, 0).unwrap();
    assert_eq!(opened.clean, written.proven == last_offset(written));
    tally.count(&format!("log {}", written.end), records(&opened.log) == written.records);
}

fn last_offset(written: &Written) -> u64 {
    written.records.last().map_or(0, |record| record.offset.0)
}

/// An image with damage in it.
struct Damaged<'a> {
    written: &'a Written,
    image: MemoryFolder,
    scan_from: u64,
    /// What the refusal must say.
    told: Vec<String>,
    /// Where in the log it is.
    segment: &'static str,
    bytes: &'static str,
}

impl<'a> Damaged<'a> {
    /// `None` if this log has no place for it.
    fn new(written: &'a Written, kind: Kind, dice: &mut Dice) -> Option<Self> {
        let image = written.folder.after_kill();
        let mut damaged = Self {
            written,
            image,
            scan_from: 0,
            told: Vec::new(),
            segment: LAST_SEGMENT,
            bytes: "in more than one place",
        };
        match kind {
            Kind::FlippedBit => damaged.within(dice, |bytes, dice| {
                let place = dice.roll(bytes.len());
                bytes[place] ^= 1 << dice.roll(8);
                place
            })?,
            Kind::Overwritten => damaged.within(dice, |bytes, dice| {
                let place = dice.roll(bytes.len());
                let len = (1 + dice.roll(64)).min(bytes.len() - place);
                bytes[place..place + len].fill_with(|| u8::try_from(dice.roll(256)).unwrap());
                place
            })?,
            Kind::LostSectors => damaged.lost_sectors(dice)?,
            Kind::CutAtByte | Kind::CutAtRecord => damaged.cut(dice, kind == Kind::CutAtRecord)?,
            Kind::ZeroFromByte | Kind::ZeroFromRecord => {
                damaged.zero_from(dice, kind == Kind::ZeroFromRecord)?;
            }
            Kind::OlderThanTheStore => damaged.older_than_the_store(dice)?,
            Kind::LostSegment => damaged.lost_segment(dice)?,
        }
        // Zeros where there were zeros are no damage.
        (damaged.image.contents() != written.folder.contents()).then_some(damaged)
    }

    /// Changes the bytes of one piece; `change` returns where.
    fn within(
        &mut self,
        dice: &mut Dice,
        change: impl FnOnce(&mut [u8], &mut Dice) -> usize,
    ) -> Option<()> {
        let piece = self.piece(dice, |_| true)?;
        let mut place = 0;
        self.image.edit(&piece.segment, |bytes| {
            place = change(&mut bytes[piece.begin..piece.end], dice);
        });
        self.bytes = match (piece.count, place < format::HEADER_LEN) {
            (0, _) => "in a marker",
            (_, true) => "in a header",
            (_, false) => "in a record",
        };
        self.tell_of(&piece);
        Some(())
    }

    /// Loses sectors as far as they hold what is proven: not the proof itself.
    fn lost_sectors(&mut self, dice: &mut Dice) -> Option<()> {
        let piece = self.piece(dice, |_| true)?;
        let junk = u8::try_from(dice.roll(3) * 100).unwrap();
        let place = piece.begin + dice.roll(piece.end - piece.begin);
        let begin = place / memory::SECTOR_LEN * memory::SECTOR_LEN;
        let end = begin + memory::SECTOR_LEN * (1 + dice.roll(4));
        let mine: Vec<Piece> = self.proven_pieces(|other| other.segment == piece.segment);
        let end = end.min(mine.last()?.end);
        let before = self.written.folder.contents();
        let before = &before[&piece.segment];
        let hit = |piece: &&Piece| {
            let (from, to) = (piece.begin.max(begin), piece.end.min(end));
            from < to && before[from..to].iter().any(|byte| *byte != junk)
        };
        let first = mine.iter().find(hit)?.clone();
        self.image.edit(&piece.segment, |bytes| bytes[begin..end].fill(junk));
        self.tell_of(&first);
        Some(())
    }

    fn cut(&mut self, dice: &mut Dice, at_record: bool) -> Option<()> {
        let piece = self.piece(dice, |piece| !at_record || piece.count > 0)?;
        let len = if at_record {
            piece.records[dice.roll(piece.records.len())]
        } else {
            dice.roll(piece.end)
        };
        self.image.edit(&piece.segment, |bytes| bytes.truncate(len));
        let size = self.written.segment_bytes;
        let base = piece.segment.trim_start_matches('0').trim_end_matches(".segment");
        self.told = vec![
            format!("{} should be {size} bytes long and is {len}", piece.segment),
            format!("begins at offset {base}"),
            REMEDY.to_owned(),
        ];
        self.segment = segment_of(&piece);
        Some(())
    }

    fn zero_from(&mut self, dice: &mut Dice, at_record: bool) -> Option<()> {
        let piece = self.piece(dice, |piece| !piece.in_last && piece.count > 0)?;
        let place = if at_record {
            piece.records[dice.roll(piece.records.len())]
        } else {
            piece.begin + dice.roll(piece.end - piece.begin)
        };
        let is_zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
        if is_zero(&self.written.folder.contents()[&piece.segment][place..piece.end]) {
            return None;
        }
        self.image.edit(&piece.segment, |bytes| bytes[place..].fill(0));
        self.tell_of(&piece);
        Some(())
    }

    /// Everything from some batch on is gone, as in a copy that was made before.
    fn older_than_the_store(&mut self, dice: &mut Dice) -> Option<()> {
        let piece = self.piece(dice, |piece| piece.in_last && piece.count > 0)?;
        self.image.edit(&piece.segment, |bytes| bytes[piece.begin..].fill(0));
        let ahead = dice.roll(usize::try_from(last_offset(self.written) - piece.base).unwrap() + 1);
        self.scan_from = piece.base + ahead as u64;
        self.told = vec![
            format!("ends at offset {}", piece.base - 1),
            format!("holds records up to {}", self.scan_from),
            "Nothing was changed. Bring back the files".to_owned(),
        ];
        Some(())
    }

    /// Some segment is gone: the next one shows it, or else the store.
    fn lost_segment(&mut self, dice: &mut Dice) -> Option<()> {
        let piece = self.piece(dice, |piece| piece.count > 0)?;
        self.image.remove(&piece.segment).unwrap();
        let mine = self.written.pieces.iter().find(|other| other.segment == piece.segment);
        let base = mine.expect("it is one of them").base;
        self.told = vec!["offset".to_owned()];
        if piece.in_last {
            self.scan_from = base;
            self.told.push(format!("ends at offset {}", base - 1));
            self.told.push("Bring back the files".to_owned());
        } else if base == 1 {
            self.told.push("those in between are missing. Restore the missing segments".to_owned());
        } else {
            self.told.push(format!("the record with offset {base} was acknowledged"));
            self.told.push(REMEDY.to_owned());
        }
        self.segment = segment_of(&piece);
        Some(())
    }

    /// A piece of what is proven, a long one more often than a short one.
    fn piece(&self, dice: &mut Dice, fits: impl Fn(&Piece) -> bool) -> Option<Piece> {
        let pieces = self.proven_pieces(fits);
        let bytes: usize = pieces.iter().map(|piece| piece.end - piece.begin).sum();
        let mut place = dice.roll(bytes.max(1));
        pieces.into_iter().find(|piece| {
            let len = piece.end - piece.begin;
            let is_it = place < len;
            place = place.wrapping_sub(len);
            is_it
        })
    }

    fn proven_pieces(&self, fits: impl Fn(&Piece) -> bool) -> Vec<Piece> {
        self.written.proven_pieces().into_iter().filter(fits).collect()
    }

    fn tell_of(&mut self, piece: &Piece) {
        self.told = vec![
            format!("{} is damaged at byte {}:", piece.segment, piece.begin),
            format!("the record with offset {} was acknowledged", piece.base),
            REMEDY.to_owned(),
        ];
        self.segment = segment_of(piece);
    }

    /// Whether the image is refused. How it is refused is checked.
    fn check_refused(&self) -> bool {
        let before = self.image.contents();
        let refused = match self.written.open(&self.image, self.scan_from) {
            Err(LogError::Damaged(text)) => self.check_text(&text),
            Err(other) => panic!("{other:?}"),
            Ok(_opened) => false,
        };
        assert_eq!(self.image.contents(), before, "nothing is changed");
        refused
    }

    /// The same with a real folder.
    fn check_refused_on_disk(&self) -> bool {
        let dir = tempfile::tempdir().unwrap();
        let before = self.image.contents();
        for (name, bytes) in &before {
            fs::write(dir.path().join(name), bytes).unwrap();
        }
        let options = self.written.options(dir.path());
        let refused = match EmbeddedLog::open(options, Offset(self.scan_from)) {
            Err(LogError::Damaged(text)) => {
                assert!(text.contains(&dir.path().display().to_string()), "{text}");
                self.check_text(&text)
            }
            Err(other) => panic!("{other:?}"),
            Ok(_opened) => false,
        };
        let names = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
        let after: BTreeMap<String, Vec<u8>> = names
            .map(|path| {
                (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap())
            })
            .collect();
        assert_eq!(after, before, "nothing is changed");
        refused
    }

    fn check_text(&self, text: &str) -> bool {
        for part in &self.told {
            assert!(text.contains(part), "{text}\ndoes not say: {part}");
        }
        true
    }
}

fn segment_of(piece: &Piece) -> &'static str {
    if piece.in_last { LAST_SEGMENT } else { OLDER_SEGMENT }
}
