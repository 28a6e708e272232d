//! The points at which a process can be told to die, by a file that names one.

use eaves::{Config, Step, StepObserver, Task};
use eaves_log::sim::ObservedDisk;
use eaves_log::{Disk, RealDisk};
use eaves_server::Adjust;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The file that names the point at which a process is to die.
pub struct Points(pub PathBuf);

impl Adjust for Points {
    /// Has a node look at every point whether the file names it.
    fn node(&self, config: &mut Config) {
        config.step_observer = Some(Arc::new(Steps(self.0.clone())));
        let (file, node) = (self.0.clone(), config.name.clone());
        let before = move |operation: &str| {
            die_at(&file, &before_operation(&node, operation));
            Ok(())
        };
        config.disk = Arc::new(ObservedDisk::new(config.disk.clone(), Arc::new(before)));
    }

    /// The same for `eaves recover`. Its operations are numbered; who dies says which it was. What changes the inside of a file counts
    /// for nothing until the file is synced, so that is no point of its own.
    fn recovered(&self) -> Arc<dyn Disk> {
        let file = self.0.clone();
        let numbers = AtomicUsize::new(0);
        let before = move |operation: &str| {
            let inside = ["write ", "allocate ", "set length "];
            if !inside.iter().any(|kind| operation.starts_with(kind)) {
                let number = numbers.fetch_add(1, Ordering::Relaxed);
                die_saying(&file, &before_recovering(number), operation);
            }
            Ok(())
        };
        Arc::new(ObservedDisk::new(Arc::new(RealDisk), Arc::new(before)))
    }
}

/// The point at which any node has taken a step of a change of role.
pub fn after_step(step: Step) -> String {
    format!("after {step}")
}

/// The point before an operation of a node on a file.
pub fn before_operation(node: &str, operation: &str) -> String {
    format!("{node} before {operation}")
}

/// The point before an operation of `eaves recover`, by its number.
pub fn before_recovering(number: usize) -> String {
    format!("recover before {number}")
}

/// Has the first process that comes to `point` die there.
pub fn set(file: &Path, point: &str) {
    let new = file.with_extension("new");
    fs::write(&new, point).expect("write the file that names the point");
    fs::rename(new, file).expect("rename the file that names the point");
}

/// Nobody is to die any more. Whether nobody had.
pub fn clear(file: &Path) -> bool {
    fs::remove_file(file).is_ok()
}

struct Steps(PathBuf);

impl StepObserver for Steps {
    fn reached<'a>(&'a self, _node: &'a str, step: Step) -> Task<'a, ()> {
        Box::pin(async move { die_at(&self.0, &after_step(step)) })
    }
}

fn die_at(file: &Path, point: &str) {
    die_saying(file, point, point);
}

fn die_saying(file: &Path, point: &str, last_words: &str) {
    let is_meant = fs::read_to_string(file).is_ok_and(|meant| meant == point);
    if is_meant && fs::remove_file(file).is_ok() {
        eprintln!("{last_words}");
        std::process::abort();
    }
}
