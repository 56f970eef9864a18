//! Logs of many lives, made by the log itself.

use super::*;
use crate::embedded::format::{FoundMeta, RECORD_OVERHEAD};

/// One batch or marker as it is on the disk.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub(super) segment: String,
    pub(super) begin: usize,
    pub(super) end: usize,
    /// The offset of its first record, or of the next one if it has none.
    pub(super) base: u64,
    pub(super) count: u64,
    /// Where its records begin.
    pub(super) records: Vec<usize>,
    /// Whether its segment is the last one.
    pub(super) in_last: bool,
}

/// A log as a process left it.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) folder: MemoryFolder,
    pub(super) segment_bytes: u64,
    pub(super) records: Vec<LogRecord>,
    /// Every batch and marker, in order.
    pub(super) pieces: Vec<Piece>,
    /// The last offset that is proven to be flushed.
    pub(super) proven: u64,
    /// How it ended.
    pub(super) end: &'static str,
}

impl Written {
    pub(super) fn new(dice: &mut Dice) -> Self {
        let segment_bytes = [4096, 8192, 8192, 20_480][dice.roll(4)];
        let folder = MemoryFolder::default();
        let segments = 1 + dice.roll(5);
        let mut log = open_sized(&folder, segment_bytes, 0).unwrap().log;
        let mut more = 1 + dice.roll(6);
        while log.writer.segments.len() < segments || more > 0 {
            more = more.saturating_sub(usize::from(log.writer.segments.len() >= segments));
            let payloads = payloads(dice, segment_bytes);
            let now_ms = dice.roll(1_000) as u64;
            log.append(&payloads, now_ms).unwrap();
            match dice.roll(12) {
                0 | 1 => drop(log.idle().unwrap()),
                2 => {
                    drop(log);
                    log = open_sized(&folder, segment_bytes, 0).unwrap().log;
                }
                3 => {
                    kill(log);
                    log = open_sized(&folder, segment_bytes, 0).unwrap().log;
                }
                _ => {}
            }
        }
        let records = records(&log);
        let end = ["closed", "killed", "killed when idle"][dice.roll(3)];
        match end {
            "closed" => drop(log),
            "killed" => kill(log),
            _ => {
                log.idle().unwrap();
                kill(log);
            }
        }
        Self::found(folder, segment_bytes, records, end)
    }

    fn found(
        folder: MemoryFolder,
        segment_bytes: u64,
        records: Vec<LogRecord>,
        end: &'static str,
    ) -> Self {
        let contents = folder.contents();
        let FoundMeta::Known(meta) = Meta::parse(&contents[META]) else { panic!("a log") };
        let names: Vec<String> = contents.keys().cloned().collect();
        let bases = segment::bases(&names);
        let mut pieces = Vec::new();
        let mut proven = bases.last().unwrap() - 1;
        for &base in &bases {
            let name = segment::name(base);
            let bytes = &contents[&name];
            let mut at = 0;
            while let Some(header) = format::Header::parse(&bytes[at..], meta.id) {
                let end = at + header.batch_len();
                pieces.push(Piece {
                    segment: name.clone(),
                    begin: at,
                    end,
                    base: header.base,
                    count: u64::from(header.count),
                    records: record_begins(bytes, at, header.count),
                    in_last: base == *bases.last().unwrap(),
                });
                proven = proven.max(header.durable_upto);
                at = end;
            }
        }
        let found: u64 = pieces.iter().map(|piece| piece.count).sum();
        assert_eq!(found, records.len() as u64, "the pieces are all there is");
        Self { folder, segment_bytes, records, pieces, proven, end }
    }

    /// The pieces in which no byte may go wrong unnoticed: the proven batches, and the markers that
    /// have a batch behind them.
    pub(super) fn proven_pieces(&self) -> Vec<Piece> {
        let is_proven = |at: usize| {
            let piece = &self.pieces[at];
            let behind = &self.pieces[at + 1..];
            match piece.count {
                0 => behind.iter().any(|next| next.segment == piece.segment && next.count > 0),
                count => piece.base + count - 1 <= self.proven,
            }
        };
        (0..self.pieces.len())
            .filter(|at| is_proven(*at))
            .map(|at| self.pieces[at].clone())
            .collect()
    }

    /// Opens an image of it.
    pub(super) fn open(&self, image: &MemoryFolder, scan_from: u64) -> Result<Opened, LogError> {
        open_sized(image, self.segment_bytes, scan_from)
    }

    pub(super) fn options(&self, dir: &std::path::Path) -> Options {
        Options { segment_bytes: self.segment_bytes, ..Options::new(dir) }
    }
}

pub(super) fn open_sized(
    folder: &MemoryFolder,
    segment_bytes: u64,
    scan_from: u64,
) -> Result<Opened, LogError> {
    let options = Options { segment_bytes, ..options() };
    let folder = Arc::new(folder.clone());
    Prepared::new(options, folder, abort_in_test, MakeSpares::OnDemand)?.open(Offset(scan_from))
}

/// Batches of one record and of many, of empty ones and of some that hardly fit.
pub(super) fn payloads(dice: &mut Dice, segment_bytes: u64) -> Vec<Bytes> {
    let (count, len_max) = match dice.roll(10) {
        0 => (1, 0),
        1 => (1 + dice.roll(40), 8),
        2 => (1, usize::try_from(segment_bytes).unwrap() / 2),
        3 | 4 => (1 + dice.roll(3), 900),
        _ => (1 + dice.roll(6), 250),
    };
    let mut payloads: Vec<Bytes> = (0..count)
        .map(|_| {
            let len = dice.roll(len_max + 1);
            let bytes = (0..len.div_ceil(8)).flat_map(|_| dice.roll(usize::MAX).to_be_bytes());
            bytes.take(len).collect()
        })
        .collect();
    while (format::batch_len(&payloads) + 2 * format::HEADER_LEN) as u64 > segment_bytes {
        payloads.pop();
    }
    payloads
}

fn record_begins(bytes: &[u8], batch: usize, count: u32) -> Vec<usize> {
    let mut at = batch + format::HEADER_LEN;
    let mut begins = Vec::new();
    for _ in 0..count {
        begins.push(at);
        let len = u32::from_be_bytes(*bytes[at + 4..].first_chunk().unwrap());
        at += RECORD_OVERHEAD + len as usize;
    }
    begins
}
