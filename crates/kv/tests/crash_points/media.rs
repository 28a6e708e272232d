//! Bad media: every file of a stopped node, with a bit flipped or its end gone. The node refuses to start and says which file is damaged
//! and what to do, or it starts and holds exactly what the group holds. It never serves anything else, and it never panics.
//!
//! Every byte and every length of the small files is tried, of the big ones a seeded sample. What the log makes of every single bit of its
//! own files is tested with the log.

use crate::group::{Client, Plan, converge};
use crate::machine::Machine;
use crate::run;
use eaves_log::Disk;
use eaves_log::sim::SimDisk;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A file longer than this is sampled.
const SMALL_BYTES: usize = 600;

/// Samples of a big file, for flipped bits and for lengths each.
const SAMPLES: usize = 24;

#[test]
fn a_voter_with_bad_media_refuses_or_is_right() {
    let judged = judge_all(&stopped(), "v2", |_| true);
    for file in ["identity", "state", "#-#.seg", "state.redb"] {
        assert!(judged[file].refused > 0, "{file}: {judged:#?}");
    }
}

#[test]
fn a_listener_with_bad_media_refuses_or_is_right() {
    let judged = judge_all(&stopped(), "l1", |_| true);
    for file in ["identity", "#-#.seg", "state.redb"] {
        assert!(judged[file].refused > 0, "{file}: {judged:#?}");
    }
}

/// Files that are there only now and then: their being there says all, whatever is in them.
#[test]
fn what_is_in_a_marker_does_not_matter() {
    let markers = ["snapshot-installed", "log-differs", "state.unsynced"];
    let stopped = stopped();
    for marker in markers {
        leave(&stopped.disks["l1"], marker);
    }
    let judged = judge_all(&stopped, "l1", |file| markers.contains(&file));
    for file in markers {
        let Judged { refused, right } = judged[file];
        assert!(refused == 0 && right > 0, "{file}: {judged:#?}");
    }
}

fn leave(disk: &SimDisk, marker: &str) {
    let file = disk.create(&Path::new("/l1").join(marker)).unwrap();
    file.write_all_at(b"it is so\n", 0).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(Path::new("/l1")).unwrap();
}

/// What became of the damages of one file.
#[derive(Clone, Copy, Debug, Default)]
struct Judged {
    refused: u32,
    right: u32,
}

#[derive(Clone, Copy, Debug)]
enum Damage {
    Flip { at: usize, bit: u8 },
    CutOff(usize),
}

impl Damage {
    fn inflict(self, disk: &SimDisk, file: &Path) {
        match self {
            Damage::Flip { at, bit } => disk.edit(file, |bytes| bytes[at] ^= 1 << bit),
            Damage::CutOff(len) => disk.cut_off(file, len as u64),
        }
    }
}

/// The disks of a stopped group, and what it acknowledged.
struct Stopped {
    disks: BTreeMap<&'static str, SimDisk>,
    client: Client,
}

const NAMES: [&str; 3] = ["v1", "v2", "l1"];

/// Writes for a while, and stops everybody.
fn stopped() -> Stopped {
    run(async {
        let plan = Plan::new(2);
        let mut machines = machines(&plan);
        let mut client = Client::default();
        for machine in &mut machines {
            machine.start().await.expect("nothing is wrong with it");
        }
        for _ in 0..16 {
            client.write_surely("a write", machines[0].node()).await;
            tokio::time::sleep(Duration::from_millis(130)).await;
        }
        for other in &machines[1..] {
            converge("before the stop", &client, &machines[0], other).await;
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        for machine in machines.iter_mut().rev() {
            machine.stop().await;
        }
        let disks = machines.iter().map(Machine::disk);
        Stopped {
            disks: NAMES.into_iter().zip(disks).collect(),
            client,
        }
    })
}

fn machines(plan: &Plan) -> Vec<Machine> {
    vec![plan.voter("v1"), plan.voter("v2"), plan.listener("l1")]
}

fn judge_all(
    stopped: &Stopped,
    name: &'static str,
    counts: impl Fn(&str) -> bool,
) -> BTreeMap<String, Judged> {
    let disk = &stopped.disks[name];
    let mut judged: BTreeMap<String, Judged> = BTreeMap::new();
    for file in files(disk, name) {
        let bytes = disk.contents(&file);
        let class = crate::machine::kind(&file.file_name().unwrap().to_string_lossy());
        if !counts(&class) {
            continue;
        }
        for damage in damages(&bytes) {
            let seen = judged.entry(class.clone()).or_default();
            match judge(stopped, name, &file, damage) {
                true => seen.right += 1,
                false => seen.refused += 1,
            }
        }
    }
    println!("{name}: {judged:#?}");
    judged
}

fn files(disk: &SimDisk, name: &str) -> Vec<PathBuf> {
    let dir = Path::new("/").join(name);
    [dir.clone(), dir.join("log"), dir.join("snapshots")]
        .iter()
        .flat_map(|dir| {
            let names = disk.list(dir).unwrap();
            names.into_iter().map(|name| dir.join(name))
        })
        .collect()
}

fn damages(bytes: &[u8]) -> Vec<Damage> {
    let used = bytes.iter().rposition(|byte| *byte != 0);
    let used = used.map_or(0, |last| last + 1);
    let places: Vec<usize> = match used <= SMALL_BYTES {
        true => (0..used).collect(),
        // The golden ratio spreads them evenly without falling into step with pages.
        false => (1..=SAMPLES)
            .map(|sample| (sample as f64 * 0.618_034 * used as f64) as usize % used)
            .collect(),
    };
    let flips = places.iter().map(|at| Damage::Flip {
        at: *at,
        bit: (at % 8) as u8,
    });
    let cuts = places.iter().map(|len| Damage::CutOff(*len));
    flips.chain(cuts).collect()
}

/// Whether the node starts. Then all it holds is right, and it goes on; else it has said what is wrong.
fn judge(stopped: &Stopped, name: &str, file: &Path, damage: Damage) -> bool {
    run(async {
        let what = format!("{damage:?} in {}", file.display());
        let plan = Plan::new(2);
        let mut machines = machines(&plan);
        for (machine, name) in machines.iter_mut().zip(NAMES) {
            machine.put_in(stopped.disks[name].fork());
        }
        let at = NAMES.iter().position(|found| *found == name).unwrap();
        let mut damaged = machines.remove(at);
        damage.inflict(&damaged.disk(), file);
        if let Err(error) = damaged.start().await {
            let (file, dir) = (file.display().to_string(), format!("/{name}"));
            let said =
                error.contains(&file) || error.contains("the log in") && error.contains(&dir);
            assert!(said, "{what}: {error}");
            return false;
        }
        // Before it has heard of anybody: what it could serve is what the group has.
        let whole = machines[0].look().expect("nothing is wrong with it");
        stopped.client.check_prefix(damaged.store(), &whole);
        for machine in &mut machines {
            machine.start().await.expect("nothing is wrong with it");
        }
        let mut client = stopped.client.clone();
        client.write_surely(&what, machines[0].node()).await;
        converge(&what, &client, &machines[0], &damaged).await;
        true
    })
}
