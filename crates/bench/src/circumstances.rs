//! Under which circumstances something was measured: the machine, what else it did, what was measured.

use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// Where and when; text as it is shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Circumstances {
    /// UTC.
    pub began: String,
    /// Processors that this process may use.
    pub processors: usize,
    /// Their model.
    pub model: String,
    /// RAM.
    pub memory_mib: u64,
    /// Of the operating system.
    pub kernel: String,
    /// Of the directory with the servers' data.
    pub filesystem: String,
    /// Processes that wanted to run in the minute, five and fifteen minutes before.
    pub load_average: String,
    /// How this program, and so Eaves, was built.
    pub build: String,
    /// Of the working directory, if git knows one.
    pub commit: String,
    /// Versions of the programs measured.
    pub programs: Vec<String>,
}

impl Circumstances {
    /// As they are now.
    pub fn now(data: &Path, programs: Vec<String>) -> Circumstances {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let after = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            let value = line.and_then(|line| line.split_once(':'));
            value.map_or("unknown".into(), |(_, value)| value.trim().to_owned())
        };
        let memory = after(&read("/proc/meminfo"), "MemTotal");
        let memory_kib: u64 = memory.trim_end_matches(" kB").parse().unwrap_or(0);
        let mounts = read("/proc/mounts");
        Circumstances {
            began: utc(SystemTime::now()),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            model: after(&read("/proc/cpuinfo"), "model name"),
            memory_mib: memory_kib / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            filesystem: filesystem(&mounts, data).unwrap_or("unknown").to_owned(),
            load_average: read("/proc/loadavg")
                .split_whitespace()
                .take(3)
                .collect::<Vec<_>>()
                .join(" "),
            build: build().to_owned(),
            commit: commit(),
            programs,
        }
    }

    /// In a sentence or two.
    pub fn text(&self) -> String {
        format!(
            "{}; {} processors ({}), {} MiB, Linux {}, {}; load average before: {}; {} build of {}; {}",
            self.began,
            self.processors,
            self.model,
            self.memory_mib,
            self.kernel,
            self.filesystem,
            self.load_average,
            self.build,
            self.commit,
            self.programs.join(", ")
        )
    }
}

/// Whether figures of this build mean anything.
pub fn build() -> &'static str {
    match cfg!(debug_assertions) {
        true => "unoptimised",
        false => "release",
    }
}

fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    match git(&["rev-parse", "--short=12", "HEAD"]) {
        // What a run writes itself is no change of the program.
        Some(commit) => match git(&["status", "--porcelain", "--", "crates", "Cargo.lock"]) {
            Some(changes) if changes.is_empty() => commit,
            _ => format!("{commit} with changes"),
        },
        None => "an unknown commit".to_owned(),
    }
}

/// The type of the file system that `path` is on: of the longest mount point that it lies below.
fn filesystem<'a>(mounts: &'a str, path: &Path) -> Option<&'a str> {
    let parse = |line: &'a str| {
        let mut words = line.split(' ').skip(1);
        let (point, kind) = (words.next()?, words.next()?);
        path.starts_with(point).then_some((point.len(), kind))
    };
    mounts
        .lines()
        .filter_map(parse)
        .max_by_key(|(length, _)| *length)
        .map(|(_, kind)| kind)
}

/// `2026-11-24 01:02 UTC`. Days become dates as in Howard Hinnant's "chrono-Compatible Low-Level Date Algorithms".
fn utc(time: SystemTime) -> String {
    let seconds = time
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = match month_from_march {
        0..10 => month_from_march + 3,
        _ => month_from_march - 9,
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year}-{month:02}-{day:02} {:02}:{:02} UTC",
        second / 3600,
        second / 60 % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (1_735_689_599, "2024-12-31 23:59 UTC"),
            (1_772_323_260, "2026-03-01 00:01 UTC"),
        ] {
            assert_eq!(utc(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn the_longest_mount_point_counts() {
        let mounts = "/dev/a / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\ntmpfs /tm xfs rw 0 0\n";
        assert_eq!(filesystem(mounts, Path::new("/tmp/x")), Some("tmpfs"));
        assert_eq!(filesystem(mounts, Path::new("/tmpx")), Some("ext4"));
        assert_eq!(filesystem("", Path::new("/")), None);
    }

    #[test]
    fn this_machine_has_circumstances() {
        let now = Circumstances::now(Path::new("/"), vec!["x 1".into()]);
        assert!(now.processors > 0 && now.memory_mib > 0, "{now:?}");
        assert!(now.text().contains("x 1"));
    }
}
