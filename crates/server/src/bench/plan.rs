//! What a benchmark does: its flags, checked, and the requests made of them.

use crate::address::Address;
use crate::bench::wire::frame;
use crate::endpoints::EndpointArgs;
use crate::failure::{Failure, Outcome};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use eaves_kv::proto::etcdserverpb::{PutRequest, RangeRequest};
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use std::time::Duration;

/// Connections when `--connections` is not given; never more than clients.
const DEFAULT_CONNECTIONS: u32 = 8;
/// More clients than this ask for more open streams than servers like to give.
const MAX_CLIENTS: u32 = 100_000;
/// etcd refuses requests above 1.5 MiB; this leaves room for the key.
const MAX_VALUE_BYTES: u32 = 1_500_000;
/// Keys are `/bench/` and eight digits.
const MAX_KEY_SPACE: u64 = 100_000_000;

/// Flags of every benchmark.
#[derive(Args, Debug)]
pub struct CommonArgs {
    /// Clients, each with one request under way at a time
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub clients: u32,

    /// Connections the clients share, spread over --endpoints in turn [default: 8, or as many as clients]
    #[arg(long, value_name = "N")]
    pub connections: Option<u32>,

    /// Requests in all
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pub total: u64,

    /// Requests per second to aim at; latencies then count from when a request was due [default: as fast as the clients go]
    #[arg(long, value_name = "PER_SECOND")]
    pub rate: Option<u64>,

    /// Keys to choose from: /bench/00000000 and on
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pub key_space: u64,

    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub nodes: EndpointArgs,
}

/// Flags of `bench put`.
#[derive(Args, Debug)]
pub struct PutArgs {
    #[command(flatten)]
    pub common: CommonArgs,

    /// Bytes of each value
    #[arg(long, value_name = "BYTES", default_value_t = 256)]
    pub value_size: u32,
}

/// Flags of `bench get`.
#[derive(Args, Debug)]
pub struct GetArgs {
    #[command(flatten)]
    pub common: CommonArgs,

    /// l: linearizable, every answer is the newest; s: serializable, from the state of the node asked
    #[arg(long, value_name = "l|s", default_value = "l")]
    pub consistency: Consistency,
}

/// `--consistency`.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// Linearizable
    #[value(alias = "linearizable")]
    L,
    /// Serializable
    #[value(alias = "serializable")]
    S,
}

/// A checked benchmark.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What each request does.
    pub operation: Operation,
    /// Clients, each with one request under way at a time.
    pub clients: u32,
    /// Connections that they share, at most as many as clients.
    pub connections: u32,
    /// Requests in all, unless time is over before.
    pub total: u64,
    /// No request begins after this time.
    pub limit: Option<Duration>,
    /// Requests per second to aim at; none: as fast as the clients go.
    pub rate: Option<u64>,
    /// Keys to choose from.
    pub key_space: u64,
    /// The keys one after the other instead of random ones: to fill a store.
    pub in_turn: bool,
    /// The servers, in turn for each connection.
    pub endpoints: Vec<Address>,
    /// How long an answer may take.
    pub timeout: Duration,
}

/// What each request does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Puts this value.
    Put(Bytes),
    /// Gets one key.
    Get {
        /// From the state of the node asked.
        serializable: bool,
    },
}

impl Operation {
    /// Puts of random bytes, the same in every request.
    pub fn put(value_bytes: usize) -> Operation {
        let mut value = vec![0; value_bytes];
        SmallRng::seed_from_u64(0).fill_bytes(&mut value);
        Operation::Put(value.into())
    }
}

impl Plan {
    /// The plan of `bench put`.
    pub fn of_puts(args: &PutArgs) -> Outcome<Plan> {
        if args.value_size > MAX_VALUE_BYTES {
            return Err(Failure::usage(format!(
                "--value-size: servers refuse such requests; give at most {MAX_VALUE_BYTES}"
            )));
        }
        Plan::of(&args.common, Operation::put(args.value_size as usize))
    }

    /// The plan of `bench get`.
    pub fn of_gets(args: &GetArgs) -> Outcome<Plan> {
        Plan::of(
            &args.common,
            Operation::Get {
                serializable: args.consistency == Consistency::S,
            },
        )
    }

    fn of(args: &CommonArgs, operation: Operation) -> Outcome<Plan> {
        let connections = args
            .connections
            .unwrap_or(DEFAULT_CONNECTIONS.min(args.clients));
        between(
            "--clients",
            u64::from(args.clients),
            1,
            u64::from(MAX_CLIENTS),
        )?;
        between(
            "--connections",
            u64::from(connections),
            1,
            u64::from(args.clients),
        )?;
        between("--total", args.total, 1, u64::MAX)?;
        between("--key-space", args.key_space, 1, MAX_KEY_SPACE)?;
        if let Some(rate) = args.rate {
            between("--rate", rate, 1, 10_000_000)?;
        }
        Ok(Plan {
            operation,
            clients: args.clients,
            connections,
            total: args.total,
            limit: None,
            rate: args.rate,
            key_space: args.key_space,
            in_turn: false,
            endpoints: args.nodes.addresses()?,
            timeout: args.nodes.timeout()?,
        })
    }

    /// The gRPC method all requests call.
    pub fn method(&self) -> &'static str {
        match self.operation {
            Operation::Put(_) => "/etcdserverpb.KV/Put",
            Operation::Get { .. } => "/etcdserverpb.KV/Range",
        }
    }

    /// Request `number`, framed for the wire.
    pub fn request(&self, number: u64, random: &mut impl Rng) -> Bytes {
        let key = match self.in_turn {
            true => number % self.key_space,
            false => random.random_range(0..self.key_space),
        };
        let key = Bytes::from(format!("/bench/{key:08}"));
        match &self.operation {
            Operation::Put(value) => frame(&PutRequest {
                key,
                value: value.clone(),
                ..Default::default()
            }),
            Operation::Get { serializable } => frame(&RangeRequest {
                key,
                serializable: *serializable,
                ..Default::default()
            }),
        }
    }
}

fn between(flag: &str, value: u64, least: u64, most: u64) -> Outcome {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    let limit = if value < least {
        format!("at least {least}")
    } else {
        format!("at most {most}")
    };
    Err(Failure::usage(format!(
        "{flag}: {value} makes no benchmark; give {limit}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    fn common() -> CommonArgs {
        CommonArgs {
            clients: 4,
            connections: None,
            total: 10,
            rate: None,
            key_space: 100,
            json: false,
            nodes: EndpointArgs {
                endpoints: Some("a:1".into()),
                command_timeout: 5,
            },
        }
    }

    #[test]
    fn there_are_never_more_connections_than_clients() {
        let plan = Plan::of_gets(&GetArgs {
            common: common(),
            consistency: Consistency::L,
        })
        .unwrap();
        assert_eq!(plan.connections, 4);
        let many = CommonArgs {
            connections: Some(5),
            ..common()
        };
        let error = Plan::of_gets(&GetArgs {
            common: many,
            consistency: Consistency::L,
        })
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "--connections: 5 makes no benchmark; give at most 4"
        );
    }

    #[test]
    fn impossible_numbers_are_usage_errors() {
        for args in [
            CommonArgs {
                clients: 0,
                ..common()
            },
            CommonArgs {
                total: 0,
                ..common()
            },
            CommonArgs {
                rate: Some(0),
                ..common()
            },
            CommonArgs {
                key_space: MAX_KEY_SPACE + 1,
                ..common()
            },
        ] {
            let result = Plan::of_puts(&PutArgs {
                common: args,
                value_size: 256,
            });
            assert!(matches!(result, Err(Failure::Usage(_))), "{result:?}");
        }
        assert!(
            Plan::of_puts(&PutArgs {
                common: common(),
                value_size: MAX_VALUE_BYTES + 1
            })
            .is_err()
        );
    }

    #[test]
    fn requests_stay_in_the_key_space_and_carry_the_value() {
        let args = PutArgs {
            common: CommonArgs {
                key_space: 2,
                ..common()
            },
            value_size: 300,
        };
        let plan = Plan::of_puts(&args).unwrap();
        let mut random = SmallRng::seed_from_u64(1);
        for _ in 0..20 {
            let request = PutRequest::decode(plan.request(0, &mut random).slice(5..)).unwrap();
            assert!(
                request.key == "/bench/00000000" || request.key == "/bench/00000001",
                "{:?}",
                request.key
            );
            assert_eq!(request.value.len(), 300);
        }
    }

    #[test]
    fn keys_in_turn_are_all_keys() {
        let plan = Plan {
            in_turn: true,
            ..Plan::of_puts(&PutArgs {
                common: common(),
                value_size: 1,
            })
            .unwrap()
        };
        let mut random = SmallRng::seed_from_u64(1);
        let mut key = |number| {
            let request = plan.request(number, &mut random);
            PutRequest::decode(request.slice(5..)).unwrap().key
        };
        assert_eq!(key(0), "/bench/00000000");
        assert_eq!(key(99), "/bench/00000099");
        assert_eq!(key(100), "/bench/00000000");
    }
}
