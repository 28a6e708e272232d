//! A run from start to end: episodes of faults with healing between, then peace, agreement and the verdict.

use super::clients::{self, KEYS, KEYS_END, ask, connect, kv};
use super::faults::{self, Fault};
use super::report::{self, Report};
use super::rig::Rig;
use super::watchers::Watching;
use super::{Plan, clients::Shared};
use crate::history::{Found, History, Operation, Outcome, Request, Step, WatchMessage};
use crate::rng::Rng;
use eaves_kv::proto::etcdserverpb::RangeRequest;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// How long an episode lasts, and how long all is well after it has been healed.
const EPISODE_MS: [u64; 2] = [2_000, 15_000];
const CALM_MS: [u64; 2] = [500, 5_000];
/// All nodes answer again, and writes are acknowledged, within this time after everything was healed; far more than it takes, also on a
/// machine with other work.
const RECOVERY: Duration = Duration::from_secs(150);
/// How often processes are looked at, and how often something is said.
const TICK: Duration = Duration::from_millis(250);
const SAY_EVERY: Duration = Duration::from_secs(5);
/// Clients of the last writes, one for each node.
const LAST_CLIENTS: u32 = 20_000;
/// One answer with everything in it.
const CONTENT_TIMEOUT: Duration = Duration::from_secs(30);

/// A run under way.
struct Course {
    rig: Rig,
    watching: Watching,
    report: Report,
    said: Instant,
}

/// Runs the plan and says how it ended.
pub async fn run(plan: Plan) -> ExitCode {
    println!(
        "nemesis: seed {}, {:.1} minutes of faults",
        plan.seed,
        plan.length.as_secs_f64() / 60.0
    );
    for missing in plan.place.missing() {
        println!("  {missing}");
    }
    let mut rng = Rng::new(plan.seed, 1);
    let rig = match Rig::start(&plan, &mut rng) {
        Ok(rig) => rig,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    println!(
        "  {}, data in {}",
        rig.names().join(" "),
        rig.directory().display()
    );
    name_the_directory_of_a_panic(plan.seed, rig.directory().to_owned());
    let shared = rig.shared.clone();
    let watching = Watching::start(plan.seed, &shared);
    let mut course = Course {
        rig,
        watching,
        report: Report::new(plan.seed),
        said: Instant::now(),
    };
    let (stop, stopping) = watch::channel(false);
    let mut at_work = None;
    let ended = async {
        course.recover("the start").await?;
        at_work = Some(clients::start(plan.seed, &shared, &stopping));
        course.episodes(&plan, &mut rng).await
    }
    .await;
    stop.send_replace(true);
    if let Some(mut clients) = at_work {
        while clients.join_next().await.is_some() {}
    }
    let last = match ended {
        Ok(()) => course.agree().await,
        Err(wrong) => Err(wrong),
    };
    course.judge(last, &shared)
}

impl Course {
    async fn episodes(&mut self, plan: &Plan, rng: &mut Rng) -> Result<(), String> {
        let end = Instant::now() + plan.length;
        while Instant::now() < end {
            self.wait(Duration::from_millis(rng.between(CALM_MS[0], CALM_MS[1])))
                .await?;
            let faults = faults::draw(rng, self.rig.known());
            let length = Duration::from_millis(rng.scale(EPISODE_MS[0], EPISODE_MS[1]));
            self.episode(&faults, length).await?;
        }
        Ok(())
    }

    async fn episode(&mut self, faults: &[Fault], length: Duration) -> Result<(), String> {
        let words: Vec<String> = faults.iter().map(Fault::to_string).collect();
        let words = words.join(", ");
        println!(
            "{:>6.1} s  {words}",
            self.rig.shared.began.elapsed().as_secs_f64()
        );
        let began = Instant::now();
        for fault in faults {
            self.report.count(fault);
            self.rig
                .apply(fault)
                .await
                .map_err(|wrong| format!("{wrong} (during {words})"))?;
        }
        self.wait(length.saturating_sub(began.elapsed())).await?;
        self.recover(&words).await
    }

    /// Heals everything and waits until all nodes serve again.
    async fn recover(&mut self, after: &str) -> Result<(), String> {
        self.rig.look_for_ended()?;
        self.rig.heal()?;
        let healed = Instant::now();
        let mut missing: Vec<(String, String)> = self
            .rig
            .names()
            .into_iter()
            .map(|name| (name, String::new()))
            .collect();
        while !missing.is_empty() {
            let mut still = Vec::new();
            for (name, _) in missing {
                if let Err(reason) = self.rig.answers(&name).await {
                    still.push((name, reason));
                }
            }
            missing = still;
            self.tick().await?;
            if healed.elapsed() > RECOVERY && !missing.is_empty() {
                return Err(self.says_who_is_missing(&missing, after).await);
            }
        }
        self.report.recovered(healed.elapsed());
        self.rig.undo().await;
        self.rig.look_at_terms().await;
        // Nobody may be asked for the tree in vain: it is looked at again at the next opportunity.
        if let Err(reason) = self.rig.look().await {
            println!("    tree: {reason}");
        }
        Ok(())
    }

    /// What those say that answer no read, and what the others see of them.
    async fn says_who_is_missing(&mut self, missing: &[(String, String)], after: &str) -> String {
        let names: Vec<&str> = missing.iter().map(|(name, _)| name.as_str()).collect();
        for (name, reason) in missing {
            println!("    {name}: {reason}");
        }
        match self.rig.look().await {
            Ok(rows) => rows.iter().for_each(|row| println!("    tree: {row}")),
            Err(reason) => println!("    tree: {reason}"),
        }
        format!(
            "{} does not answer a linearizable read {} s after everything was healed (after {after})",
            names.join(" "),
            RECOVERY.as_secs()
        )
    }

    async fn wait(&mut self, time: Duration) -> Result<(), String> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.tick().await?;
        }
        Ok(())
    }

    async fn tick(&mut self) -> Result<(), String> {
        sleep(TICK).await;
        if self.said.elapsed() > SAY_EVERY {
            self.said = Instant::now();
            let shared = &self.rig.shared;
            self.report
                .say(shared, self.watching.events(), self.rig.elections());
        }
        self.rig.look_for_ended()
    }

    /// After the faults: all write, all hold the same, every listener has its place. Returns the last revision.
    async fn agree(&mut self) -> Result<i64, String> {
        self.watching.settle();
        self.recover("all faults").await?;
        let began = Instant::now();
        let mut last = 0;
        for (number, name) in (0..).zip(self.rig.names()) {
            last = last.max(self.last_write(number, &name, began).await?);
        }
        self.whole_tree(began).await?;
        let mut contents = Vec::new();
        for name in self.rig.names() {
            contents.push((name.clone(), self.content(&name, last, began).await?));
        }
        for (name, content) in &contents[1..] {
            if *content != contents[0].1 {
                return Err(format!(
                    "{name} and {} hold different states at revision {last}",
                    contents[0].0
                ));
            }
        }
        while !self.watching.have_reached(last) && began.elapsed() < RECOVERY {
            self.tick().await?;
        }
        self.report.keep_content(contents.swap_remove(0).1);
        Ok(last)
    }

    /// A write at each node, tried until it is acknowledged.
    async fn last_write(&mut self, number: u32, name: &str, began: Instant) -> Result<i64, String> {
        let shared = self.rig.shared.clone();
        let target = &shared.targets[number as usize];
        let mut channel = None;
        loop {
            let request = Request::One(Step::Put {
                key: format!("{KEYS}last/{name}"),
                value: shared.new_value(),
            });
            let invoked_ns = shared.now_ns();
            let node = shared.run_of(target);
            let outcome = ask(&shared, target, &mut channel, &request).await;
            let operation = Operation {
                client: LAST_CLIENTS + number,
                node,
                invoked_ns,
                returned_ns: shared.now_ns(),
                request,
                outcome: outcome.clone(),
            };
            shared.operations.lock().unwrap().push(operation);
            match outcome {
                Outcome::Ok(answer) => return Ok(answer.revision),
                Outcome::Failed(reason) | Outcome::Unknown(reason)
                    if began.elapsed() > RECOVERY =>
                {
                    return Err(format!(
                        "{name} takes no write after everything was healed: {reason}"
                    ));
                }
                Outcome::Failed(_) | Outcome::Unknown(_) => self.tick().await?,
            }
        }
    }

    async fn whole_tree(&mut self, began: Instant) -> Result<(), String> {
        loop {
            let seen = self.rig.look().await;
            let whole = seen.as_ref().is_ok_and(|rows| {
                rows.len() == self.rig.names().len()
                    && rows.iter().any(|row| row["role"] == "leader")
                    && rows.iter().all(|row| row["depth"].is_u64())
            });
            if whole {
                return Ok(());
            }
            if began.elapsed() > RECOVERY {
                return Err(format!(
                    "the tree is not whole after everything was healed: {seen:?}"
                ));
            }
            self.tick().await?;
        }
    }

    /// Everything that a node holds by itself at a revision that it may still have to reach.
    async fn content(
        &mut self,
        name: &str,
        revision: i64,
        began: Instant,
    ) -> Result<BTreeMap<String, Found>, String> {
        let targets = self.rig.shared.targets.iter();
        let address = targets
            .filter(|target| target.name == name)
            .map(|target| target.address)
            .next();
        let address = address.ok_or_else(|| format!("{name} is nobody"))?;
        loop {
            let read = async {
                let channel = connect(address).await?;
                let request = RangeRequest {
                    key: KEYS.into(),
                    range_end: KEYS_END.into(),
                    revision,
                    serializable: true,
                    ..Default::default()
                };
                let answer = kv(channel)
                    .range(request)
                    .await
                    .map_err(|status| status.to_string())?;
                Ok::<_, String>(answer.into_inner().kvs)
            };
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            match timeout(CONTENT_TIMEOUT, read).await {
                Ok(Ok(kvs)) => {
                    let found = kvs.iter().map(|kv| {
                        let (value, mod_revision) = (text(&kv.value), kv.mod_revision);
                        (
                            text(&kv.key),
                            Found {
                                value,
                                mod_revision,
                            },
                        )
                    });
                    return Ok(found.collect());
                }
                Ok(Err(reason)) if began.elapsed() > RECOVERY => {
                    return Err(format!(
                        "{name} does not come to revision {revision}: {reason}"
                    ));
                }
                Err(_) if began.elapsed() > RECOVERY => {
                    return Err(format!(
                        "{name} does not say what it holds at revision {revision}"
                    ));
                }
                Ok(Err(_)) | Err(_) => self.tick().await?,
            }
        }
    }

    /// Checks the history, says what came of it, and keeps everything if anything is wrong.
    fn judge(mut self, last: Result<i64, String>, shared: &Arc<Shared>) -> ExitCode {
        let revision = last.as_ref().copied().unwrap_or(0);
        let history = History {
            operations: std::mem::take(&mut shared.operations.lock().unwrap()),
            watches: self.watching.end(revision),
        };
        let mut wrong: Vec<String> = last.err().into_iter().collect();
        wrong.extend(shared.nonsense.lock().unwrap().drain(..));
        if wrong.is_empty() {
            wrong.extend(self.report.compare_content(&last_told(&history)));
        }
        let verdict = crate::history::check(&history);
        wrong.extend(verdict.violations.iter().map(ToString::to_string));
        // Why a run that broke off early has seen little is said already.
        if wrong.is_empty() {
            wrong = report::unseen(&verdict.checked);
        }
        self.report
            .summarize(&history, &verdict.checked, self.rig.elections());
        if !wrong.is_empty() {
            self.rig.keep();
        }
        self.rig.end();
        self.report.conclude(&history, &wrong, self.rig.directory())
    }
}

/// A panic ends the process where it stands, in a release build: what it leaves behind is named first.
fn name_the_directory_of_a_panic(seed: u64, directory: PathBuf) {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        tell(info);
        println!(
            "seed {seed}: data and logs are left in {}",
            directory.display()
        );
    }));
}

/// What the first watch, which is one of everything, told of each key last.
fn last_told(history: &History) -> BTreeMap<String, Found> {
    let mut told = BTreeMap::new();
    let pieces = history
        .watches
        .iter()
        .take(1)
        .flat_map(|stream| &stream.pieces);
    for message in pieces.flat_map(|piece| &piece.messages) {
        let WatchMessage::Events(events) = message else {
            continue;
        };
        for event in events {
            match &event.value {
                Some(value) => told.insert(
                    event.key.clone(),
                    Found {
                        value: value.clone(),
                        mod_revision: event.revision,
                    },
                ),
                None => told.remove(&event.key),
            };
        }
    }
    told
}

impl Shared {
    /// How long ago a write was acknowledged.
    pub fn since_acknowledged(&self) -> Duration {
        Duration::from_nanos(
            self.now_ns()
                .saturating_sub(self.acknowledged_ns.load(Ordering::SeqCst)),
        )
    }
}
