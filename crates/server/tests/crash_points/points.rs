//! The points at which a process can be told to die, by a file that names one.

use eaves::{Config, Step, StepObserver, Task};
use eaves_log::sim::ObservedDisk;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Has a node look at every point whether `file` names it.
pub fn arm(config: &mut Config, file: &Path) {
    config.step_observer = Some(Arc::new(Steps(file.to_owned())));
    let (file, node) = (file.to_owned(), config.name.clone());
    let before = move |operation: &str| {
        die_at(&file, &before_operation(&node, operation));
        Ok(())
    };
    config.disk = Arc::new(ObservedDisk::new(config.disk.clone(), Arc::new(before)));
}

/// The point at which any node has taken a step of a change of role.
pub fn after_step(step: Step) -> String {
    format!("after {step}")
}

/// The point before an operation of a node on a file.
pub fn before_operation(node: &str, operation: &str) -> String {
    format!("{node} before {operation}")
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
    let is_meant = fs::read_to_string(file).is_ok_and(|meant| meant == point);
    if is_meant && fs::remove_file(file).is_ok() {
        std::process::abort();
    }
}
