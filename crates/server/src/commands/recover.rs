//! `eaves recover`: a new group from what is left of a lost one (B17).
//!
//! Without `--yes` it only says what there is and what would be done.

use crate::Adjust;
use crate::address::Address;
use crate::failure::{Failure, Outcome};
use crate::print::Output;
use crate::table::{Align, layout};
use clap::Args;
use eaves::{Agreement, Group, RecoverError, Source, Stand, StateMachine, Survey};
use eaves_kv::store::Store;
use eaves_log::Disk;
use rand::{RngCore, SeedableRng};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Makes a new group, with a new cluster id, from a data directory of a group that is lost for good.
///
/// Without --yes nothing is changed: it prints how far each directory given has come, whether they agree, and what would be done.
/// The directories given by --from are never changed, and no server may run on them.
#[derive(Args, Debug)]
pub struct RecoverArgs {
    /// Data directory of a node of the lost group, listener or voter; give all there are: the most advanced one is taken
    #[arg(long, value_name = "DIR", required = true)]
    pub from: Vec<PathBuf>,

    /// A voter of the new group: its name, where other nodes will reach it, and a new directory for its data; once for each voter
    #[arg(long, value_name = "NAME=URL,DIR")]
    pub voter: Vec<String>,

    /// Tells the new group from others with the same members [default: a random one]
    #[arg(long, value_name = "TOKEN")]
    pub initial_cluster_token: Option<String>,

    /// Make it
    #[arg(long)]
    pub yes: bool,
}

/// A voter to make.
#[derive(Clone, Debug, PartialEq, Eq)]
struct NewVoter {
    name: String,
    address: Address,
    dir: PathBuf,
}

/// Checked flags.
#[derive(Debug)]
struct Settings {
    from: Vec<PathBuf>,
    voters: Vec<NewVoter>,
    token: String,
    /// The token was given, and not drawn.
    token_is_given: bool,
    yes: bool,
}

/// Prints what there is; with `--yes` makes the new group.
pub fn run(args: &RecoverArgs, adjust: &dyn Adjust) -> Outcome {
    let settings = args.check()?;
    let mut revisions = Vec::new();
    let mut sources = Vec::new();
    for dir in &settings.from {
        let (source, revision) = open(dir)?;
        sources.push(source);
        revisions.push(revision);
    }
    let survey = Survey::of(sources).map_err(failed)?;
    let revision = survey
        .found()
        .zip(&revisions)
        .find_map(|((_, agreement), revision)| {
            (agreement == Agreement::Chosen).then_some(*revision)
        })
        .expect("one was chosen");
    let mut output = Output::new();
    print_found(&mut output, &survey, &revisions)?;
    output.line("")?;
    print_position(&mut output, &survey, revision)?;
    if let Some(warning) = settings.warning() {
        output.line(&warning)?;
    }
    output.line("")?;
    if settings.yes {
        output.flush()?;
        let (term, index) = make(&settings, &survey, adjust.recovered())?;
        let place = format!("goes on with entry {term}-{index}, revision {revision}");
        print_made(&mut output, &settings, &place)?;
    } else {
        survey
            .check(&settings.group(), &settings.dirs())
            .map_err(failed)?;
        print_dry(&mut output, &settings)?;
    }
    output.flush()
}

impl RecoverArgs {
    fn check(&self) -> Outcome<Settings> {
        let mut seen = BTreeSet::new();
        for dir in &self.from {
            // What is not there is refused later, with more to say.
            if !seen.insert(dir.canonicalize().unwrap_or_else(|_| dir.clone())) {
                return Err(Failure::usage(format!(
                    "--from: {} is there twice; give each directory once",
                    dir.display()
                )));
            }
        }
        let voters = self
            .voter
            .iter()
            .map(|text| parse_voter(text))
            .collect::<Outcome<Vec<_>>>()?;
        check_distinct(&voters)?;
        if self.yes && voters.is_empty() {
            return Err(Failure::usage(
                "--yes: there is no voter to make; add --voter NAME=http://HOST:PORT,DIR with a new directory, once for each voter",
            ));
        }
        let token = match &self.initial_cluster_token {
            Some(token) if token.is_empty() => {
                return Err(Failure::usage(
                    "--initial-cluster-token: it is empty; give any word, or leave it out",
                ));
            }
            Some(token) => token.clone(),
            None => format!(
                "recovered-{:016x}",
                rand::rngs::SmallRng::from_os_rng().next_u64()
            ),
        };
        Ok(Settings {
            from: self.from.clone(),
            voters,
            token,
            token_is_given: self.initial_cluster_token.is_some(),
            yes: self.yes,
        })
    }
}

fn parse_voter(text: &str) -> Outcome<NewVoter> {
    let wrong = || {
        Failure::usage(format!(
            "--voter: {text:?} is not NAME=URL,DIR; write for example v1=http://10.0.0.1:2380,/var/lib/eaves-v1"
        ))
    };
    let (name, rest) = text.split_once('=').ok_or_else(wrong)?;
    let (url, dir) = rest.split_once(',').ok_or_else(wrong)?;
    if name.is_empty() || dir.is_empty() {
        return Err(wrong());
    }
    crate::node_flags::check_label("--voter", name)?;
    let address = Address::parse("--voter", url)?;
    crate::node_flags::check_reachable("--voter", &address)?;
    Ok(NewVoter {
        name: name.to_string(),
        address,
        dir: PathBuf::from(dir),
    })
}

fn check_distinct(voters: &[NewVoter]) -> Outcome {
    for (i, voter) in voters.iter().enumerate() {
        let same = |other: &&NewVoter| {
            other.name == voter.name || other.address == voter.address || other.dir == voter.dir
        };
        if let Some(other) = voters[..i].iter().find(same) {
            return Err(Failure::usage(format!(
                "--voter: {} and {} have a name, an address or a directory in common; give each its own",
                other.name, voter.name
            )));
        }
    }
    Ok(())
}

/// Opens a directory to look at, and says at which revision its log ends.
fn open(dir: &Path) -> Outcome<(Source, i64)> {
    let mut store = None;
    let source = Source::open(dir, |dir| {
        let opened = Store::open_unchanged(dir)?;
        store = Some(opened.clone());
        Ok(Arc::new(opened))
    });
    let source = source.map_err(failed)?;
    let store = store.expect("an open source has an open store");
    Ok((source, store.revision()))
}

fn make(settings: &Settings, survey: &Survey, disk: Arc<dyn Disk>) -> Outcome<(u64, u64)> {
    let open = |dir: &Path| -> std::io::Result<Arc<dyn StateMachine>> {
        Ok(Arc::new(Store::open_on(disk.clone(), dir)?))
    };
    survey
        .make_on(disk.clone(), &settings.group(), &settings.dirs(), open)
        .map_err(failed)
}

fn failed(error: RecoverError) -> Failure {
    Failure::failed(error.to_string())
}

fn print_found(output: &mut Output, survey: &Survey, revisions: &[i64]) -> Outcome {
    let columns = [
        ("DIRECTORY", Align::Left),
        ("NODE", Align::Left),
        ("ROLE", Align::Left),
        ("TERM", Align::Right),
        ("INDEX", Align::Right),
        ("REVISION", Align::Right),
        ("CHAIN", Align::Left),
        ("LAST WRITTEN (UTC)", Align::Left),
        ("", Align::Left),
    ];
    let rows: Vec<Vec<String>> = survey
        .found()
        .zip(revisions)
        .map(|((stand, agreement), revision)| {
            vec![
                stand.dir.display().to_string(),
                stand.name.clone(),
                if stand.is_voter { "voter" } else { "listener" }.to_string(),
                stand.term.to_string(),
                stand.index.to_string(),
                revision.to_string(),
                format!("{:016x}", stand.chain),
                stand.written.map_or("not known".into(), utc),
                compared(survey.chosen(), stand, agreement),
            ]
        })
        .collect();
    layout(&columns, &rows)
        .iter()
        .try_for_each(|line| output.line(line))
}

fn compared(chosen: &Stand, stand: &Stand, agreement: Agreement) -> String {
    match agreement {
        Agreement::Chosen => "the most advanced".into(),
        Agreement::Prefix { behind: 0 } => "the same entries".into(),
        Agreement::Prefix { behind } => format!("the same entries, without the last {behind}"),
        Agreement::Unknown => format!(
            "cannot be compared: it ends at {}, and the log of {} begins at {}",
            stand.index, chosen.name, chosen.log_first
        ),
        Agreement::Differs { from } => {
            format!("other entries from {from} on, which were never committed")
        }
    }
}

fn print_position(output: &mut Output, survey: &Survey, revision: i64) -> Outcome {
    let chosen = survey.chosen();
    output.line(&format!(
        "A new group goes on from {}: term {}, index {}, revision {revision} of cluster {:016x}.",
        chosen.dir.display(),
        chosen.term,
        chosen.index,
        chosen.cluster_id
    ))?;
    output.line(
        "What the lost group acknowledged after that is lost, and nothing here tells how much it was, or whether it was anything.",
    )?;
    if chosen.is_voter {
        let committed = survey
            .found()
            .filter(|(stand, agreement)| {
                !stand.is_voter && matches!(agreement, Agreement::Prefix { .. })
            })
            .map(|(stand, _)| stand.index)
            .max();
        output.line(&format!(
            "It is a voter's: its entries{} may or may not have been acknowledged; in the new group they count.",
            committed.map_or(String::new(), |index| format!(" after {index}"))
        ))?;
    }
    let (here, all) = survey.voters();
    if 2 * here > all {
        output.line(&format!(
            "WARNING: {here} of the {all} voters are here, a majority: started again they elect a leader, and nothing is lost. A new group is \
             for when that cannot be."
        ))?;
    }
    Ok(())
}

fn print_dry(output: &mut Output, settings: &Settings) -> Outcome {
    for voter in &settings.voters {
        output.line(&format!(
            "It would be voter {} at {} in {}.",
            voter.name,
            voter.address,
            voter.dir.display()
        ))?;
    }
    output.line("Nothing was changed. To make the group:")?;
    let from: Vec<String> = settings
        .from
        .iter()
        .map(|dir| format!(" --from {}", quoted_path(dir)))
        .collect();
    let voters: Vec<String> = match settings.voters.is_empty() {
        true => vec![" --voter NAME=http://HOST:PORT,NEW_DIR".into()],
        false => (settings.voters.iter())
            .map(|voter| {
                let dir = quoted_path(&voter.dir);
                format!(" --voter {}={},{dir}", voter.name, voter.address.url())
            })
            .collect(),
    };
    let token = match settings.token_is_given {
        true => format!(" --initial-cluster-token {}", quoted(&settings.token)),
        false => String::new(),
    };
    output.line(&format!(
        "  eaves recover{}{}{token} --yes",
        from.concat(),
        voters.concat()
    ))?;
    if settings.voters.len() < 2 {
        output.line(LONE_VOTER)?;
    }
    Ok(())
}

/// What a group of one voter is good for.
const LONE_VOTER: &str = "One voter makes a group that takes reads and writes, feeds no listeners and survives no loss (nobody but a follower feeds \
     listeners). For a group that does, give --voter three times, with three new directories. Or let this one grow later: \
     promote listeners, each asked itself (`eaves promote` with its --endpoints), or stop it and recover from its own directory in the same way.";

fn print_made(output: &mut Output, settings: &Settings, place: &str) -> Outcome {
    let group = settings.group();
    output.line(&format!(
        "Made cluster {:016x}, which {place}. Start {}, with --listen-client-urls and other flags as you need them:",
        group.cluster_id,
        match settings.voters.len() {
            1 => "its voter",
            _ => "its voters, each where it belongs and with its directory there",
        }
    ))?;
    let members: Vec<String> = settings
        .voters
        .iter()
        .map(|voter| format!("{}={}", voter.name, voter.address.url()))
        .collect();
    for voter in &settings.voters {
        output.line(&format!(
            "  eaves serve --name {} --data-dir {} --listen-peer-urls {} --initial-cluster {} --initial-cluster-token {}",
            voter.name,
            quoted_path(&voter.dir),
            voter.address.url(),
            members.join(","),
            quoted(&settings.token)
        ))?;
    }
    if settings.voters.len() == 1 {
        output.line(LONE_VOTER)?;
    } else {
        let upstream: Vec<String> = settings
            .voters
            .iter()
            .map(|voter| voter.address.to_string())
            .collect();
        output.line("Then listeners, old ones too, each on an empty directory:")?;
        output.line(&format!(
            "  eaves listen --name NAME --data-dir NEW_DIR --upstream {}",
            upstream.join(",")
        ))?;
    }
    output.line(
        "Nodes of the lost group are refused by the new one. Keep their directories until nothing in them is missed.",
    )
}

impl Settings {
    /// A token that is used twice gives two groups one id, and no directory at hand tells.
    fn warning(&self) -> Option<String> {
        let used = self.token_is_given && !self.voters.is_empty();
        used.then(|| {
            format!(
                "WARNING: with the token {} the new cluster has the id {:016x} however often and from whatever it is made. If a group with this \
                 token and these voters has been made before, nodes of the two do not refuse each other: leave --initial-cluster-token out, \
                 and one is drawn that nobody has used.",
                self.token,
                self.group().cluster_id
            )
        })
    }

    fn dirs(&self) -> Vec<PathBuf> {
        let voters = self.voters.iter();
        voters.map(|voter| voter.dir.clone()).collect()
    }

    fn group(&self) -> Group {
        let founders: Vec<(String, String)> = self
            .voters
            .iter()
            .map(|voter| (voter.name.clone(), voter.address.to_string()))
            .collect();
        Group::new(&self.token, &founders)
    }
}

/// A path as a word for a shell.
fn quoted_path(path: &Path) -> String {
    quoted(&path.display().to_string())
}

/// A text as a word for a shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text.to_string(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// A time as date and time of day, UTC (Hinnant's days-from-civil, backwards).
fn utc(time: SystemTime) -> String {
    let Ok(since) = time.duration_since(UNIX_EPOCH) else {
        return "before 1970".into();
    };
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = (shifted_month + 2) % 12 + 1;
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    format!(
        "{year:04}-{month:02}-{day:02} {hours:02}:{minutes:02}:{:02}",
        seconds % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_399, "2000-02-28 23:59:59"),
            (951_782_400, "2000-02-29 00:00:00"),
            (1_709_251_199, "2024-02-29 23:59:59"),
            (1_735_689_599, "2024-12-31 23:59:59"),
            (4_107_542_400, "2100-03-01 00:00:00"),
        ] {
            assert_eq!(utc(UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn a_voter_is_a_name_an_address_and_a_directory() {
        let voter = parse_voter("v1=http://h:1,/data/v1,with comma").unwrap();
        assert_eq!(
            (voter.name.as_str(), voter.address),
            ("v1", Address::new("h", 1))
        );
        assert_eq!(voter.dir, PathBuf::from("/data/v1,with comma"));
        for wrong in [
            "v1",
            "v1=http://h:1",
            "=http://h:1,d",
            "v1=http://h:1,",
            "v1=h,d",
            "a/b=h:1,d",
        ] {
            let error = parse_voter(wrong).unwrap_err();
            assert!(
                matches!(&error, Failure::Usage(text) if text.starts_with("--voter")),
                "{error}"
            );
        }
    }

    #[test]
    fn a_path_is_one_word() {
        assert_eq!(quoted_path(Path::new("/a/b-1")), "/a/b-1");
        assert_eq!(quoted_path(Path::new("it's mine")), r"'it'\''s mine'");
    }

    #[test]
    fn a_token_that_is_given_is_warned_of() {
        let mut args = RecoverArgs {
            from: vec!["l1".into()],
            voter: vec!["v1=http://h:1,v1".into()],
            initial_cluster_token: None,
            yes: false,
        };
        assert_eq!(args.check().unwrap().warning(), None);
        args.initial_cluster_token = Some("mine".into());
        let settings = args.check().unwrap();
        let (warning, id) = (settings.warning().unwrap(), settings.group().cluster_id);
        assert!(warning.contains("the token mine"), "{warning}");
        assert!(warning.contains(&format!("{id:016x}")), "{warning}");
        // Without voters there is no group that could have an id.
        args.voter.clear();
        assert_eq!(args.check().unwrap().warning(), None);
    }
}
