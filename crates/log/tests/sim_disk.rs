//! The simulated disk loses what a disk may lose, and nothing else.

use eaves_log::sim::SimDisk;
use eaves_log::{Disk, DiskFile};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;

const FILE: &str = "/dir/file";

/// What `prepare` may leave in the file: all outcomes over many crashes.
fn outcomes(prepare: impl Fn(&SimDisk)) -> BTreeSet<Option<Vec<u8>>> {
    (0..100)
        .map(|seed| {
            let disk = SimDisk::new();
            prepare(&disk);
            disk.crash(seed);
            read(&disk)
        })
        .collect()
}

fn read(disk: &SimDisk) -> Option<Vec<u8>> {
    let file = disk.open(Path::new(FILE)).ok()?;
    let mut bytes = vec![0; file.len().unwrap() as usize];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), bytes.len());
    Some(bytes)
}

fn create_durably(disk: &SimDisk, bytes: &[u8]) -> std::sync::Arc<dyn DiskFile> {
    let file = disk.create(Path::new(FILE)).unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(Path::new("/dir")).unwrap();
    file
}

#[test]
fn what_is_synced_survives() {
    let found = outcomes(|disk| drop(create_durably(disk, b"old")));
    assert_eq!(found, BTreeSet::from([Some(b"old".to_vec())]));
}

#[test]
fn what_is_not_synced_may_survive_in_any_version() {
    let found = outcomes(|disk| {
        let file = create_durably(disk, b"a");
        file.write_all_at(b"b", 0).unwrap();
        file.write_all_at(b"c", 0).unwrap();
    });
    assert_eq!(
        found,
        [b"a", b"b", b"c"].map(|bytes| Some(bytes.to_vec())).into()
    );
}

#[test]
fn sectors_survive_independently() {
    let found = outcomes(|disk| {
        create_durably(disk, &[1; 1024])
            .write_all_at(&[2; 1024], 0)
            .unwrap()
    });
    let both: BTreeSet<(u8, u8)> = found
        .into_iter()
        .flatten()
        .map(|bytes| (bytes[0], bytes[1023]))
        .collect();
    assert_eq!(both, [(1, 1), (1, 2), (2, 1), (2, 2)].into());
}

#[test]
fn names_are_durable_only_with_their_directory() {
    let found = outcomes(|disk| {
        create_durably(disk, b"old");
        let file = disk.create(Path::new("/dir/new")).unwrap();
        file.write_all_at(b"new", 0).unwrap();
        file.sync_data().unwrap();
        disk.rename(Path::new("/dir/new"), Path::new(FILE)).unwrap();
    });
    assert_eq!(found, [Some(b"old".to_vec()), Some(b"new".to_vec())].into());
    let found = outcomes(|disk| {
        create_durably(disk, b"old");
        disk.remove(Path::new(FILE)).unwrap();
    });
    assert_eq!(found, [Some(b"old".to_vec()), None].into());
}

#[test]
fn a_failed_sync_is_not_made_good_by_a_later_one() {
    let write_and_fail = |disk: &SimDisk| {
        let file = create_durably(disk, b"old");
        file.write_all_at(b"new", 0).unwrap();
        disk.fail_syncs_after(0);
        file.sync_data().unwrap_err();
        disk.heal();
        file
    };
    let found = outcomes(|disk| write_and_fail(disk).sync_data().unwrap());
    assert_eq!(found.len(), 2, "old or new");
    let found = outcomes(|disk| {
        let file = write_and_fail(disk);
        file.write_all_at(b"new", 0).unwrap();
        file.sync_data().unwrap();
    });
    assert_eq!(
        found,
        [Some(b"new".to_vec())].into(),
        "written again, it is"
    );
}

#[test]
fn space_runs_out_and_comes_back_when_files_go() {
    let disk = SimDisk::new();
    disk.set_capacity(Some(1000));
    let file = create_durably(&disk, &[0; 600]);
    let other = disk.create(Path::new("/dir/other")).unwrap();
    assert_eq!(
        other.allocate(500).unwrap_err().kind(),
        ErrorKind::StorageFull
    );
    assert_eq!(
        other.write_all_at(&[0; 500], 0).unwrap_err().kind(),
        ErrorKind::StorageFull
    );
    disk.remove(Path::new(FILE)).unwrap();
    disk.sync_dir(Path::new("/dir")).unwrap();
    assert!(
        other.allocate(500).is_err(),
        "a file that is open keeps its space"
    );
    drop(file);
    other.allocate(500).unwrap();
}

#[test]
fn handles_die_with_the_machine() {
    let disk = SimDisk::new();
    let file = create_durably(&disk, b"old");
    disk.crash(1);
    assert!(file.len().is_err() && file.write_all_at(b"x", 0).is_err());
    assert_eq!(read(&disk), Some(b"old".to_vec()));
}

#[test]
fn a_fork_is_a_disk_of_its_own() {
    let disk = SimDisk::new();
    let file = create_durably(&disk, b"old");
    let fork = disk.fork();
    file.write_all_at(b"new", 0).unwrap();
    assert_eq!(read(&fork), Some(b"old".to_vec()));
}
