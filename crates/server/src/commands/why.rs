//! `eaves why`: the candidates of a listener's last choice, and why each was passed over.

use super::steer::{label, named};
use crate::admin::proto::admin_client::AdminClient;
use crate::admin::proto::{Candidate, Choice, Role, TreeNode, WhyRequest, WhyResponse};
use crate::client::Client;
use crate::endpoints::EndpointArgs;
use crate::failure::Outcome;
use crate::print::{Output, duration};
use crate::table::{Align, layout};
use clap::Args;
use serde::Serialize;
use std::time::Duration;

/// Shows why a node hangs where it hangs: why it looked for an upstream, whom it asked, and what became of each.
#[derive(Args, Debug)]
#[command(after_help = "Example: eaves why l3")]
pub struct WhyArgs {
    /// The node: its name, or its id
    pub node: String,

    /// Print an object
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub nodes: EndpointArgs,
}

/// Runs `why`.
pub async fn run(args: WhyArgs) -> Outcome {
    let node = named("NODE", &args.node)?;
    let client = Client::new(&args.nodes)?;
    let request = WhyRequest { node };
    let what = format!("ask why {} is where it is", args.node);
    let call = async |channel| AdminClient::new(channel).why(request.clone()).await;
    let answer = client.read(&what, call).await?.into_inner();
    let mut output = Output::new();
    let json = args.json.then(|| Json::from(&answer));
    output.answer(json, &lines(&answer))?;
    output.flush()
}

/// The answer as text.
fn lines(answer: &WhyResponse) -> Vec<String> {
    let nobody = TreeNode::default();
    let node = answer.node.as_ref().unwrap_or(&nobody);
    let mut lines = vec![standing(node, &answer.upstream_name)];
    if node.role() != Role::Listener {
        return lines;
    }
    lines.extend(steering(answer));
    lines.push(format!(
        "its list of upstream servers: {}",
        or_none(&answer.upstream_list)
    ));
    lines.push(format!("what it has learned: {}", or_none(&answer.learned)));
    if let Some(choice) = &answer.choice {
        let chose = match (
            node.upstream,
            choice.candidates.iter().any(|one| one.accepted),
        ) {
            (Some(_), true) => "chose",
            _ => "looks for an upstream, the last time",
        };
        lines.push(String::new());
        lines.push(format!(
            "it {chose} {} ago, because {}:",
            ago(choice.ago_ms),
            choice.why
        ));
        lines.extend(table(choice));
    }
    if let Some(look) = &answer.look {
        lines.push(String::new());
        lines.push(format!(
            "it looked for another place {} ago, because {}, and stayed:",
            ago(look.ago_ms),
            look.why
        ));
        lines.extend(table(look));
    }
    lines
}

/// Where the node is, in one sentence.
fn standing(node: &TreeNode, upstream_name: &str) -> String {
    let name = label(node);
    match node.role() {
        Role::Leader => format!(
            "{name} is a voter and leads: it has no upstream, and feeds nobody. Elections decide who leads."
        ),
        Role::Follower => format!(
            "{name} is a voter and follows the leader by Raft: it has no upstream, and is the root of a tree."
        ),
        Role::Candidate => {
            format!("{name} is a voter and stands for election: it has no upstream.")
        }
        Role::Listener | Role::Unspecified => {
            let Some(upstream) = node.upstream else {
                return format!("{name} is a listener and hangs nowhere: it looks for an upstream");
            };
            let upstream = match upstream_name {
                "" => format!("node {upstream}"),
                upstream => upstream.to_string(),
            };
            let since = node
                .fed_for_ms
                .map_or(String::new(), |fed_for| format!(", since {}", ago(fed_for)));
            match node.depth {
                Some(depth) => {
                    format!("{name} is a listener below {upstream} at depth {depth}{since}")
                }
                None => format!(
                    "{name} is a listener below {upstream}{since}, and both hang below a node that has lost its upstream"
                ),
            }
        }
    }
}

/// What an administrator asked of it.
fn steering(answer: &WhyResponse) -> Option<String> {
    let mut told = Vec::new();
    if let Some(pin) = &answer.pinned_to {
        told.push(format!("it is pinned to {pin}"));
    }
    if !answer.avoids.is_empty() {
        told.push(format!("it avoids {}", answer.avoids.join(", ")));
    }
    if answer.node.as_ref().is_some_and(|node| node.draining) {
        told.push("it is draining".to_string());
    }
    (!told.is_empty()).then(|| told.join(", "))
}

fn table(choice: &Choice) -> Vec<String> {
    let columns = [
        ("CANDIDATE", Align::Left),
        ("PEER ADDRESS", Align::Left),
        ("DEPTH", Align::Right),
        ("WHAT BECAME OF IT", Align::Left),
    ];
    let row = |candidate: &Candidate| {
        let name = match (candidate.name.is_empty(), candidate.id) {
            (false, _) => candidate.name.clone(),
            (true, Some(id)) => id.to_string(),
            (true, None) => "?".to_string(),
        };
        vec![
            name,
            candidate.address.clone(),
            candidate
                .depth
                .map_or("-".into(), |depth| depth.to_string()),
            candidate.verdict.clone(),
        ]
    };
    let rows: Vec<Vec<String>> = choice.candidates.iter().map(row).collect();
    layout(&columns, &rows)
}

fn ago(milliseconds: u64) -> String {
    duration(Duration::from_millis(milliseconds))
}

fn or_none(list: &[String]) -> String {
    match list.is_empty() {
        true => "none".into(),
        false => list.join(", "),
    }
}

/// The fields of `eaves why --json`.
#[derive(Serialize)]
struct Json<'a> {
    node: crate::tree_view::Row,
    upstream_name: &'a str,
    choice: Option<JsonChoice<'a>>,
    look: Option<JsonChoice<'a>>,
    upstream_list: &'a [String],
    learned: &'a [String],
}

#[derive(Serialize)]
struct JsonChoice<'a> {
    why: &'a str,
    ago_ms: u64,
    candidates: Vec<JsonCandidate<'a>>,
}

#[derive(Serialize)]
struct JsonCandidate<'a> {
    id: Option<u64>,
    name: &'a str,
    address: &'a str,
    depth: Option<u32>,
    accepted: bool,
    verdict: &'a str,
}

impl<'a> From<&'a WhyResponse> for Json<'a> {
    fn from(answer: &'a WhyResponse) -> Json<'a> {
        Json {
            node: answer.node.clone().unwrap_or_default().into(),
            upstream_name: &answer.upstream_name,
            choice: answer.choice.as_ref().map(JsonChoice::from),
            look: answer.look.as_ref().map(JsonChoice::from),
            upstream_list: &answer.upstream_list,
            learned: &answer.learned,
        }
    }
}

impl<'a> From<&'a Choice> for JsonChoice<'a> {
    fn from(choice: &'a Choice) -> JsonChoice<'a> {
        let candidate = |candidate: &'a Candidate| JsonCandidate {
            id: candidate.id,
            name: &candidate.name,
            address: &candidate.address,
            depth: candidate.depth,
            accepted: candidate.accepted,
            verdict: &candidate.verdict,
        };
        JsonChoice {
            why: &choice.why,
            ago_ms: choice.ago_ms,
            candidates: choice.candidates.iter().map(candidate).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(name: &str, id: Option<u64>, depth: Option<u32>, verdict: &str) -> Candidate {
        Candidate {
            id,
            name: name.into(),
            address: "h:1".into(),
            depth,
            accepted: verdict == "accepted",
            verdict: verdict.into(),
        }
    }

    #[test]
    fn a_listener_is_told_with_all_whom_it_asked() {
        let answer = WhyResponse {
            node: Some(TreeNode {
                id: 9,
                name: "l1".into(),
                role: Role::Listener.into(),
                upstream: Some(2),
                depth: Some(1),
                fed_for_ms: Some(61_000),
                pin: Some(3),
                draining: true,
                ..Default::default()
            }),
            upstream_name: "v2".into(),
            choice: Some(Choice {
                why: "it started".into(),
                ago_ms: 61_200,
                candidates: vec![
                    candidate(
                        "v1",
                        Some(1),
                        Some(0),
                        "leads, and a leader feeds nobody (S1)",
                    ),
                    candidate("v2", Some(2), Some(0), "accepted"),
                    candidate("", None, None, "could not be reached"),
                ],
            }),
            upstream_list: vec!["h:1".into()],
            learned: vec![],
            look: None,
            pinned_to: Some("v3".into()),
            avoids: vec!["l4".into(), "l5".into()],
        };
        assert_eq!(
            lines(&answer),
            [
                "l1 is a listener below v2 at depth 1, since 1 m 1 s",
                "it is pinned to v3, it avoids l4, l5, it is draining",
                "its list of upstream servers: h:1",
                "what it has learned: none",
                "",
                "it chose 1 m 1 s ago, because it started:",
                "CANDIDATE  PEER ADDRESS  DEPTH  WHAT BECAME OF IT",
                "v1         h:1               0  leads, and a leader feeds nobody (S1)",
                "v2         h:1               0  accepted",
                "?          h:1               -  could not be reached",
            ]
        );
    }

    #[test]
    fn a_voter_has_no_upstream_and_is_told_so() {
        for (role, part) in [
            (Role::Leader, "leads"),
            (Role::Follower, "root"),
            (Role::Candidate, "election"),
        ] {
            let answer = WhyResponse {
                node: Some(TreeNode {
                    name: "v1".into(),
                    role: role.into(),
                    ..Default::default()
                }),
                ..Default::default()
            };
            let lines = lines(&answer);
            assert_eq!(lines.len(), 1);
            assert!(lines[0].contains(part) && lines[0].contains("no upstream"));
        }
    }
}
