//! A log whose files are not what was written: every bit flipped, files cut at every byte, sectors lost, files missing.
//!
//! Whatever is done to the files, opening either gives a prefix of the log that has all that is provably durable, or a clear error.

mod common;

use common::{DIR, Pair, SMALL, open, read_all};
use eaves_log::sim::SimDisk;
use eaves_log::{Disk, Frame, LogId, OpenError};
use std::path::{Path, PathBuf};

/// Three segments of entries, in batches that were flushed one by one.
struct Victim {
    disk: SimDisk,
    entries: Vec<Frame>,
    /// Entries up to here have a record behind them which proves that they were durable.
    proven: usize,
    files: Vec<PathBuf>,
    newest: PathBuf,
}

fn victim() -> Victim {
    let mut pair = Pair::new(SimDisk::new(), SMALL);
    for (term, sizes) in [
        (1, vec![0, 40, 100]),
        (1, vec![7]),
        (3, vec![200, 60, 150]),
        (3, vec![1, 90]),
        (4, vec![30, 30]),
        (4, vec![9, 9]),
        (4, vec![50]),
    ] {
        pair.append(term, &sizes);
        pair.flush().unwrap();
        pair.save_hard_state(format!("vote of {term}"));
        pair.flush().unwrap();
    }
    let mut files: Vec<PathBuf> = pair
        .disk
        .list(Path::new(DIR))
        .unwrap()
        .iter()
        .map(|f| Path::new(DIR).join(f))
        .collect();
    files.sort();
    let newest = files
        .iter()
        .rfind(|file| file.extension().is_some())
        .unwrap()
        .clone();
    let entries = read_all(&pair.log, 1 << 20);
    let proven = entries.len() - 1;
    let first_of_newest: usize = newest.file_name().unwrap().to_str().unwrap()[..20]
        .parse()
        .unwrap();
    assert!(
        files.len() >= 4,
        "three segments and a state file: {files:?}"
    );
    assert!(
        first_of_newest + 2 < proven,
        "the newest segment has proven entries"
    );
    Victim {
        disk: pair.disk.fork(),
        proven,
        entries,
        files,
        newest,
    }
}

impl Victim {
    /// What opening `disk`, on which `file` was damaged, may give.
    fn judge(&self, disk: &SimDisk, file: &Path, what: &str) -> Outcome {
        match open(disk, SMALL) {
            Ok((log, recovered)) => {
                let found = read_all(&log, 1 << 20);
                assert_eq!(
                    found,
                    self.entries[..found.len()],
                    "{what}: other entries than were written"
                );
                let must_have = if file == self.newest {
                    self.proven
                } else {
                    self.entries.len()
                };
                assert!(
                    found.len() >= must_have,
                    "{what}: {} entries, {must_have} were durable",
                    found.len()
                );
                assert_eq!(
                    recovered.hard_state.as_deref(),
                    Some(&b"vote of 4"[..]),
                    "{what}: the hard state differs"
                );
                let complete = found.len() == self.entries.len();
                assert_eq!(
                    log.require_at_least(self.entries.len() as u64 - 1).is_ok(),
                    complete
                );
                if complete {
                    Outcome::Whole
                } else {
                    Outcome::Shorter
                }
            }
            Err(error @ (OpenError::Damaged(_) | OpenError::Version { .. })) => {
                let message = error.to_string();
                assert!(
                    message.contains(DIR),
                    "{what}: the error does not name a file: {message}"
                );
                Outcome::Refused
            }
            Err(error) => panic!("{what}: unclear error {error}"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Whole,
    Shorter,
    Refused,
}

#[test]
fn every_bit_flipped() {
    let victim = victim();
    let mut outcomes = Vec::new();
    for file in &victim.files {
        for at in 0..victim.disk.contents(file).len() {
            for bit in 0..8 {
                let disk = victim.disk.fork();
                disk.edit(file, |bytes| bytes[at] ^= 1 << bit);
                let what = format!("bit {bit} of byte {at} of {} flipped", file.display());
                outcomes.push(victim.judge(&disk, file, &what));
            }
        }
    }
    let count = |outcome| outcomes.iter().filter(|other| **other == outcome).count();
    assert!(
        count(Outcome::Refused) > outcomes.len() * 3 / 4,
        "most bits are of durable records, and missed"
    );
    assert!(
        count(Outcome::Shorter) > 0,
        "of the last batch some cannot be told from a torn one"
    );
    assert!(count(Outcome::Whole) > 0, "bits of padding do not matter");
}

/// The entry may have been acknowledged, and nothing lies behind it that says so: what is wrong with it is no torn write's doing.
#[test]
fn a_bit_flipped_in_the_very_last_entry_is_refused() {
    let disk = SimDisk::new();
    let mut pair = Pair::new(disk.clone(), SMALL);
    pair.append(1, &[40]);
    pair.flush().unwrap();
    pair.append(1, &[100]);
    pair.flush().unwrap();
    let files = disk.list(Path::new(DIR)).unwrap();
    let file = Path::new(DIR).join(files.iter().find(|file| file.ends_with(".seg")).unwrap());
    let payload_end = disk
        .contents(&file)
        .iter()
        .rposition(|byte| *byte != 0)
        .unwrap();
    for at in payload_end - 90..=payload_end - 4 {
        let disk = disk.fork();
        disk.edit(&file, |bytes| bytes[at] ^= 0x10);
        match open(&disk, SMALL) {
            Err(OpenError::Damaged(damage)) => assert_eq!(damage.index, Some(1), "byte {at}"),
            other => panic!("byte {at}: {:?}", other.map(|(_, recovered)| recovered)),
        }
    }
}

#[test]
fn every_file_cut_at_every_byte() {
    let victim = victim();
    for file in &victim.files {
        let mut refused = 0;
        for len in 0..victim.disk.contents(file).len() {
            let disk = victim.disk.fork();
            disk.cut_off(file, len as u64);
            let what = format!("{} cut off at {len}", file.display());
            match judge_cut(&victim, &disk, file, &what) {
                Outcome::Refused => refused += 1,
                outcome => assert!(
                    file == &victim.newest || outcome == Outcome::Whole,
                    "{what}"
                ),
            }
        }
        assert!(refused > 0, "no cut of {} was refused", file.display());
    }
}

/// A file cut short has no proof left of what was cut off, so the newest segment may lose all that it had; only the node can tell,
/// by [`eaves_log::Log::require_at_least`].
fn judge_cut(victim: &Victim, disk: &SimDisk, file: &Path, what: &str) -> Outcome {
    if file != victim.newest {
        return victim.judge(disk, file, what);
    }
    let Ok((log, _)) = open(disk, SMALL) else {
        return Outcome::Refused;
    };
    let found = read_all(&log, 1 << 20);
    assert_eq!(found, victim.entries[..found.len()], "{what}");
    let complete = found.len() == victim.entries.len();
    assert_eq!(
        log.require_at_least(victim.entries.len() as u64 - 1)
            .is_ok(),
        complete,
        "{what}"
    );
    if complete {
        Outcome::Whole
    } else {
        Outcome::Shorter
    }
}

#[test]
fn every_durable_byte_lost_with_its_surroundings() {
    let victim = victim();
    for file in &victim.files {
        let len = victim.disk.contents(file).len();
        for at in 0..len {
            for (width, value) in [(16, 0x00), (64, 0xff), (512, 0x00)] {
                let disk = victim.disk.fork();
                disk.edit(file, |bytes| bytes[at..len.min(at + width)].fill(value));
                if disk.contents(file) == victim.disk.contents(file) {
                    continue;
                }
                // Where the wiped part reaches the end of the newest segment, it takes the proof along.
                let wiped_end = file == &victim.newest && at + width >= len - 100;
                if !wiped_end {
                    victim.judge(
                        &disk,
                        file,
                        &format!("{width} bytes at {at} of {} set to {value}", file.display()),
                    );
                }
            }
        }
    }
}

#[test]
fn a_missing_segment_in_the_middle_is_noticed() {
    let victim = victim();
    let segments: Vec<&PathBuf> = victim
        .files
        .iter()
        .filter(|file| file.extension().is_some())
        .collect();
    let disk = victim.disk.fork();
    disk.remove(segments[1]).unwrap();
    let error = open(&disk, SMALL)
        .err()
        .expect("a gap must be noticed")
        .to_string();
    assert!(error.contains("its records end before entry"), "{error}");
}

#[test]
fn a_state_file_without_segments_is_noticed() {
    let victim = victim();
    for file in victim
        .files
        .iter()
        .filter(|file| file.extension().is_some())
    {
        victim.disk.remove(file).unwrap();
    }
    let error = open(&victim.disk, SMALL)
        .err()
        .expect("lost segments must be noticed")
        .to_string();
    assert!(error.contains("no segment of the log"), "{error}");
}

#[test]
fn a_record_of_another_log_is_noticed() {
    // Same places, same sizes, other payloads: every record is whole, but the chain does not lead to it.
    let (ours, other) = (SimDisk::new(), SimDisk::new());
    for (disk, term) in [(&ours, 1), (&other, 2)] {
        let mut pair = Pair::new(disk.clone(), SMALL);
        pair.append(term, &[50, 50, 50]);
        pair.flush().unwrap();
    }
    let file = Path::new(DIR).join("00000000000000000000-0000000001.seg");
    let foreign = other.contents(&file);
    let half = foreign.len() / 3 + 50;
    ours.edit(&file, |bytes| {
        bytes[half..].copy_from_slice(&foreign[half..])
    });
    assert!(
        open(&ours, SMALL).is_err()
            || open(&ours, SMALL).unwrap().0.last_id() == Some(LogId::new(1, 0))
    );
}

/// Its head and its frame match their checksums, and it has the index that belongs there: only the chain tells.
#[test]
fn a_whole_record_of_another_log_does_not_continue_the_chain() {
    let (ours, other) = (SimDisk::new(), SimDisk::new());
    for (disk, term) in [(&ours, 1), (&other, 2)] {
        let mut pair = Pair::new(disk.clone(), SMALL);
        pair.append(term, &[50, 50]);
        pair.flush().unwrap();
    }
    let file = Path::new(DIR).join("00000000000000000000-0000000001.seg");
    let foreign = other.contents(&file);
    // Behind the header, two records of the same length.
    let second = 64 + (foreign.len() - 64) / 2;
    ours.edit(&file, |bytes| {
        bytes[second..].copy_from_slice(&foreign[second..])
    });
    match open(&ours, SMALL) {
        Err(OpenError::Damaged(damage)) => {
            assert!(
                damage.to_string().contains("its chain value is"),
                "{damage}"
            );
        }
        other => panic!("the chain does not lead there: {:?}", other.map(|(_, r)| r)),
    }
}

#[test]
fn damage_is_noticed_when_reading_later() {
    let mut pair = Pair::new(SimDisk::new(), SMALL);
    for _ in 0..10 {
        pair.append(1, &[150, 150]);
        pair.flush().unwrap();
    }
    let file = Path::new(DIR).join("00000000000000000000-0000000001.seg");
    pair.disk.edit(&file, |bytes| bytes[200] ^= 1);
    let error = pair
        .log
        .read(0, 3, 1 << 20)
        .expect_err("damage under the log's feet")
        .to_string();
    assert!(
        error.contains("00000000000000000000-0000000001.seg is damaged at byte 64 (entry 0)"),
        "{error}"
    );
}

#[test]
fn a_newer_format_is_refused_by_name() {
    let victim = victim();
    let file = &victim.files[0];
    victim.disk.edit(file, |bytes| {
        bytes[8] = 9;
        let checksum = crc32c::crc32c(&bytes[..60]);
        bytes[60..64].copy_from_slice(&checksum.to_le_bytes());
    });
    let error = open(&victim.disk, SMALL)
        .err()
        .expect("a newer format")
        .to_string();
    assert!(
        error.contains("has format version 9, this program reads version 1"),
        "{error}"
    );
}

/// Found by the fuzzer: the number of the next segment overflowed, or two segments were taken for one after the other.
#[test]
fn segments_whose_numbers_cannot_be_are_refused() {
    let victim = victim();
    let path = |first: u64, seq: u64| Path::new(DIR).join(format!("{first:020}-{seq:010}.seg"));
    let newest = victim.newest.file_name().unwrap().to_str().unwrap();
    let newest_seq: u64 = newest[21..31].parse().unwrap();
    for (extra, expected) in [
        (path(0, u64::MAX), "no log makes so many segments"),
        (path(999, newest_seq), "has the same sequence number"),
    ] {
        let disk = victim.disk.fork();
        let file = disk.create(&extra).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir(Path::new(DIR)).unwrap();
        match open(&disk, SMALL) {
            Err(OpenError::Damaged(damage)) => {
                assert!(damage.to_string().contains(expected), "{damage}");
            }
            other => panic!("{} opens: {:?}", extra.display(), other.map(|(_, r)| r)),
        }
    }
}
