//! A snapshot as it comes from a peer: the offer, the sums of the chunks, and chunks that are what the sums say or are not.

use super::read;
use crate::dir::Dir;
use crate::message::{
    ChunkHead, SnapshotAsk, SnapshotEnd, SnapshotOffer, SnapshotSums, SnapshotWant,
};
use crate::position::Applied;
use crate::snapshot::fuzzing::{Manifest, Receiving, numbers, to_sums};
use crate::state_machine::Position;
use arbitrary::Unstructured;
use bytes::Bytes;
use eaves_log::sim::SimDisk;
use std::sync::Arc;

/// Chunks of one snapshot.
const MAX_CHUNKS: usize = 16;

/// What the fuzzer calls.
pub fn snapshot_chunks(input: &[u8]) {
    let Some((kind, rest)) = input.split_first() else {
        return;
    };
    let mut script = Unstructured::new(rest);
    // A script that ends early sends nothing more.
    let _ended = match kind % 4 {
        0 => {
            messages(rest);
            Ok(())
        }
        1 => sums(&mut script),
        2 => transfer(&mut script),
        // The state machine's part of this target.
        _ => Ok(()),
    };
}

fn messages(input: &[u8]) {
    let _ = read::<SnapshotAsk>(input);
    let _ = read::<SnapshotEnd>(input);
    let _ = read::<ChunkHead>(input);
    let _ = read::<SnapshotSums>(input);
    if let Some(offer) = read::<SnapshotOffer>(input) {
        position(Position(offer.position));
    }
    position(Position(Bytes::copy_from_slice(input)));
    if let Some(want) = read::<SnapshotWant>(input) {
        for range in &want.ranges {
            if let Ok(numbers) = numbers(range, MAX_CHUNKS) {
                assert!(numbers.end <= MAX_CHUNKS, "a chunk that does not exist");
            }
        }
    }
}

/// A position from a peer: stays what it is, and there is an entry after it.
fn position(position: Position) {
    if let Ok(applied) = Applied::from_position(&position) {
        let again = Applied::from_position(&applied.to_position());
        assert_eq!(again.expect("what was written is read"), applied);
        assert!(applied.next_index() > applied.index().unwrap_or(0) || applied.last.is_none());
    }
}

/// Sums as they come: chunks follow one another without a gap, and travel on as they came.
fn sums(script: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let mut manifest = Manifest::new(Applied::default());
    while !script.is_empty() {
        let count = usize::from(script.arbitrary::<u8>()?).min(script.len());
        let piece = Bytes::copy_from_slice(script.bytes(count)?);
        if manifest.add_sums(piece).is_err() {
            break;
        }
    }
    let mut end = 0;
    for chunk in manifest.chunks() {
        assert_eq!(chunk.offset, end);
        end += u64::from(chunk.bytes);
    }
    assert_eq!(manifest.total_bytes(), end);
    let mut again = Manifest::new(Applied::default());
    for piece in manifest.chunks().chunks(3) {
        again
            .add_sums(to_sums(piece))
            .expect("our own sums are read");
    }
    assert_eq!((again.digest(), &again), (manifest.digest(), &manifest));
    Ok(())
}

/// A whole transfer with damage, cuts and another snapshot in between: when nothing lacks, the file is what was sent.
fn transfer(script: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let dir = Dir::new(Arc::new(SimDisk::new()), "/data");
    let mut receiving = Receiving::default();
    for _ in 0..script.int_in_range(1..=3)? {
        let mut chunks = Vec::new();
        for _ in 0..script.int_in_range(1..=MAX_CHUNKS)? {
            let length = script.int_in_range(1..=40)?;
            chunks.push(Bytes::from(vec![script.arbitrary::<u8>()?; length]));
        }
        let mut manifest = Manifest::new(Applied::default());
        for chunk in &chunks {
            manifest.push(manifest.following(chunk).expect("a small chunk"));
        }
        let mut incoming = receiving.open(&dir, &manifest);
        for _ in 0..script.int_in_range(0..=40)? {
            let number = script.int_in_range(0..=chunks.len() - 1)?;
            let mut sent = chunks[number].to_vec();
            if script.ratio(1, 4)? {
                match script.int_in_range(0..=2)? {
                    0 => sent.push(0),
                    1 => drop(sent.pop()),
                    _ => sent[0] ^= script.arbitrary::<u8>()?,
                }
            }
            let is_good = sent == chunks[number];
            let taken = incoming
                .write(number, &sent.into())
                .expect("the disk works");
            assert_eq!(
                taken, is_good,
                "a damaged chunk is refused, a good one taken"
            );
        }
        let lacking: Vec<usize> = incoming.lacking(usize::MAX).into_iter().flatten().collect();
        for (number, chunk) in chunks.iter().enumerate() {
            let told = manifest.chunks()[number];
            let read = incoming.file().read(told, told.room());
            let read = read.expect("the disk works");
            match lacking.contains(&number) {
                // It may be there by chance: another snapshot's chunk that is the same.
                true => assert!(read.is_none() || read.as_ref() == Some(chunk)),
                false => assert_eq!(read.as_ref(), Some(chunk), "proven, and not there"),
            }
        }
    }
    Ok(())
}
