//! `eaves what-if NODE down`: a prediction of where its downstreams would go, and of what would become of the group.

use super::steer::{label, named};
use crate::admin::proto::admin_client::AdminClient;
use crate::admin::proto::{
    GroupForecast, Move, Succession, TreeNode, WhatIfRequest, WhatIfResponse,
};
use crate::client::Client;
use crate::endpoints::EndpointArgs;
use crate::failure::Outcome;
use crate::print::Output;
use crate::table::{Align, layout};
use clap::{Args, ValueEnum};
use serde::Serialize;

/// Predicts what would become of the tree if a node went down: where its downstreams would go, who would find no place, and for a voter
/// what would become of the group. Nothing is done.
#[derive(Args, Debug)]
#[command(after_help = "Example: eaves what-if v2 down")]
pub struct WhatIfArgs {
    /// The node: its name, or its id
    pub node: String,

    /// What happens to it
    #[arg(value_enum)]
    pub event: Happening,

    /// Print an object
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub nodes: EndpointArgs,
}

/// What may happen to a node.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Happening {
    /// It stops, or nobody reaches it any more
    Down,
}

/// Runs `what-if`.
pub async fn run(args: WhatIfArgs) -> Outcome {
    let Happening::Down = args.event;
    let node = named("NODE", &args.node)?;
    let client = Client::new(&args.nodes)?;
    let request = WhatIfRequest { node };
    let what = format!("predict what happens when {} goes down", args.node);
    let call = async |channel| AdminClient::new(channel).what_if(request.clone()).await;
    let answer = client.read(&what, call).await?.into_inner();
    let mut output = Output::new();
    let json = args.json.then(|| Json::from(&answer));
    output.answer(json, &lines(&answer))?;
    output.flush()
}

/// The answer as text.
fn lines(answer: &WhatIfResponse) -> Vec<String> {
    let nobody = TreeNode::default();
    let node = answer.node.as_ref().unwrap_or(&nobody);
    let mut lines = vec![format!(
        "if {} went down now, as far as the tree of this moment can tell:",
        label(node)
    )];
    if let Some(group) = &answer.group {
        lines.push(of_group(group));
    }
    match answer.moves.is_empty() {
        true => lines.push("nobody would need another upstream: it feeds no listener".into()),
        false => lines.extend(of_moves("its listeners", &answer.moves)),
    }
    for succession in &answer.successors {
        lines.push(String::new());
        lines.extend(of_succession(succession));
    }
    lines
}

fn of_group(group: &GroupForecast) -> String {
    let left = format!("{} of {} voters would be left", group.left, group.voters);
    match group.goes_on {
        true => format!("{left}, {} are needed: the group goes on", group.needed),
        false => format!(
            "{left}, {} are needed: no leader could be elected, so no writes and no linearizable reads until enough are back",
            group.needed
        ),
    }
}

fn of_succession(succession: &Succession) -> Vec<String> {
    let name = named_or_id(&succession.name, succession.leader);
    match succession.moves.is_empty() {
        true => vec![format!(
            "if {name} became leader: it feeds no listener, nobody would have to move"
        )],
        false => {
            let who = format!("if {name} became leader it would let go of its listeners, which");
            of_moves(&who, &succession.moves)
        }
    }
}

fn of_moves(who: &str, moves: &[Move]) -> Vec<String> {
    let homeless = moves.iter().filter(|one| one.to.is_none()).count();
    let mut lines = vec![match homeless {
        0 => format!("{who} would all find a place:"),
        _ => format!(
            "{who} would go as follows; {homeless} of {} would find no place: add a node, or raise --capacity of one",
            moves.len()
        ),
    }];
    let columns = [
        ("LISTENER", Align::Left),
        ("BELOW IT", Align::Right),
        ("GOES TO", Align::Left),
        ("DEPTH", Align::Right),
        ("", Align::Left),
    ];
    let rows: Vec<Vec<String>> = moves.iter().map(cells).collect();
    lines.extend(layout(&columns, &rows));
    lines
}

fn cells(one: &Move) -> Vec<String> {
    let (to, depth, notes) = match &one.to {
        Some(to) => {
            let mut notes = Vec::new();
            match to.equals {
                0 | 1 => {}
                2 => notes.push("or another that is as good".into()),
                equals => notes.push(format!("or one of {} others that are as good", equals - 1)),
            }
            if to.other_zone {
                notes.push("in another zone".into());
            }
            (
                named_or_id(&to.name, to.id),
                to.depth.to_string(),
                notes.join(", "),
            )
        }
        None => ("nobody".into(), "-".into(), String::new()),
    };
    vec![
        named_or_id(&one.name, one.listener),
        one.along.to_string(),
        to,
        depth,
        notes,
    ]
}

fn named_or_id(name: &str, id: u64) -> String {
    match name.is_empty() {
        true => id.to_string(),
        false => name.to_string(),
    }
}

/// The fields of `eaves what-if --json`.
#[derive(Serialize)]
struct Json {
    node: crate::tree_view::Row,
    group: Option<JsonGroup>,
    moves: Vec<JsonMove>,
    successors: Vec<JsonSuccession>,
}

#[derive(Serialize)]
struct JsonGroup {
    voters: u32,
    left: u32,
    needed: u32,
    goes_on: bool,
}

#[derive(Serialize)]
struct JsonMove {
    listener: u64,
    name: String,
    along: u32,
    to: Option<JsonTarget>,
}

#[derive(Serialize)]
struct JsonTarget {
    id: u64,
    name: String,
    depth: u32,
    other_zone: bool,
    equals: u32,
}

#[derive(Serialize)]
struct JsonSuccession {
    leader: u64,
    name: String,
    moves: Vec<JsonMove>,
}

impl From<&WhatIfResponse> for Json {
    fn from(answer: &WhatIfResponse) -> Json {
        let successors = answer.successors.iter();
        Json {
            node: answer.node.clone().unwrap_or_default().into(),
            group: answer.group.as_ref().map(|group| JsonGroup {
                voters: group.voters,
                left: group.left,
                needed: group.needed,
                goes_on: group.goes_on,
            }),
            moves: answer.moves.iter().map(JsonMove::from).collect(),
            successors: successors
                .map(|succession| JsonSuccession {
                    leader: succession.leader,
                    name: succession.name.clone(),
                    moves: succession.moves.iter().map(JsonMove::from).collect(),
                })
                .collect(),
        }
    }
}

impl From<&Move> for JsonMove {
    fn from(one: &Move) -> JsonMove {
        JsonMove {
            listener: one.listener,
            name: one.name.clone(),
            along: one.along,
            to: one.to.as_ref().map(|to| JsonTarget {
                id: to.id,
                name: to.name.clone(),
                depth: to.depth,
                other_zone: to.other_zone,
                equals: to.equals,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::proto::Target;

    fn one(name: &str, along: u32, to: Option<(&str, u32, u32)>) -> Move {
        Move {
            listener: 9,
            name: name.into(),
            along,
            to: to.map(|(name, depth, equals)| Target {
                id: 3,
                name: name.into(),
                depth,
                other_zone: equals > 2,
                equals,
            }),
        }
    }

    #[test]
    fn a_leader_is_told_with_the_group_and_each_who_might_follow() {
        let answer = WhatIfResponse {
            node: Some(TreeNode {
                name: "v1".into(),
                ..Default::default()
            }),
            group: Some(GroupForecast {
                voters: 3,
                left: 2,
                needed: 2,
                goes_on: true,
            }),
            moves: vec![],
            successors: vec![
                Succession {
                    leader: 2,
                    name: "v2".into(),
                    moves: vec![one("l1", 4, Some(("v3", 1, 1))), one("l2", 0, None)],
                },
                Succession {
                    leader: 3,
                    name: "v3".into(),
                    moves: vec![],
                },
            ],
        };
        assert_eq!(
            lines(&answer),
            [
                "if v1 went down now, as far as the tree of this moment can tell:",
                "2 of 3 voters would be left, 2 are needed: the group goes on",
                "nobody would need another upstream: it feeds no listener",
                "",
                "if v2 became leader it would let go of its listeners, which would go as follows; 1 of 2 would find no place: add a node, or raise --capacity of one",
                "LISTENER  BELOW IT  GOES TO  DEPTH",
                "l1               4  v3           1",
                "l2               0  nobody       -",
                "",
                "if v3 became leader: it feeds no listener, nobody would have to move",
            ]
        );
    }

    #[test]
    fn equally_good_places_and_other_zones_are_told() {
        let answer = WhatIfResponse {
            moves: vec![one("l1", 0, Some(("v3", 1, 3)))],
            ..Default::default()
        };
        let lines = lines(&answer);
        assert!(lines[2].is_empty() || lines[1].contains("would all find a place"));
        assert!(lines[3].ends_with("or one of 2 others that are as good, in another zone"));
    }
}
