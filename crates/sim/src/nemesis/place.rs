//! What of this machine can be used for faults, and processes that do not outlive their run.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// What can be had here. Nothing of it changes anything for other processes of the machine.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// A file system of its own size can be mounted: a disk that is really full.
    pub mounts: bool,
    /// Processes can be started with a monotonic clock that is ahead.
    pub clocks: bool,
}

impl Place {
    /// Tries what is possible.
    pub fn look(private_mounts: bool) -> Place {
        Place {
            mounts: private_mounts,
            clocks: works("unshare", &["--time", "--monotonic", "10", "true"]),
        }
    }

    /// In words, one line for each thing that is missing.
    pub fn missing(&self) -> Vec<&'static str> {
        let mounts = (!self.mounts).then_some(
            "no file system can be mounted here (unshare --mount): a limit to the size of files stands for a full disk",
        );
        let clocks = (!self.clocks)
            .then_some("no clock can be ahead here (unshare --time): no process gets another one");
        mounts.into_iter().chain(clocks).collect()
    }
}

/// Runs this program again where nobody else sees its mounts, in its own place. Returns when that is not possible.
pub fn begin_again_with_private_mounts() {
    // As root, and else as a user who is root in a namespace of his own.
    let ways: [&[&str]; 2] = [
        &["--mount", "--propagation", "private"],
        &[
            "--user",
            "--map-root-user",
            "--mount",
            "--propagation",
            "private",
        ],
    ];
    let Ok(program) = std::env::current_exe() else {
        return;
    };
    for way in ways {
        let probe = "d=$(mktemp -d) && mount -t tmpfs -o size=1m none $d && umount $d && rmdir $d";
        let words: Vec<&str> = way.iter().copied().chain(["sh", "-c", probe]).collect();
        if works("unshare", &words) {
            let mut command = Command::new("unshare");
            command
                .args(way)
                .arg(&program)
                .args(std::env::args_os().skip(1));
            // Returns only if it could not.
            let error = command.arg("--private-mounts").exec();
            eprintln!("cannot run unshare: {error}");
        }
    }
}

/// Mounts a file system of so many MiB in memory.
pub fn mount(directory: &Path, mebibytes: u32) -> Result<(), String> {
    std::fs::create_dir_all(directory)
        .map_err(|error| format!("make {}: {error}", directory.display()))?;
    let size = format!("size={mebibytes}m");
    let directory = directory.display().to_string();
    match works("mount", &["-t", "tmpfs", "-o", &size, "none", &directory]) {
        true => Ok(()),
        false => Err(format!("cannot mount a file system at {directory}")),
    }
}

/// The other end of [`mount`]; what cannot be unmounted goes with the namespace.
pub fn unmount(directory: &Path) {
    works("umount", &[&directory.display().to_string()]);
}

fn works(program: &str, words: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::null());
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// Has the kernel kill this process when the one that started it ends, stopped or not. False if that one has ended already.
pub fn die_with_parent() -> bool {
    let parent = rustix::process::getppid();
    let kill = Some(rustix::process::Signal::KILL);
    let told = rustix::process::set_parent_process_death_signal(kill);
    told.is_ok() && rustix::process::getppid() == parent && parent.is_some()
}
