//! Puts and gets beside Redis, which promises less.

use super::loads::{self, KEYS, SIDES, VALUE_BYTES};
use super::{Figure, Running};
use crate::context::{Context, Recorder};
use crate::group::Group;
use crate::load::{Load, SETTLE, fill};
use crate::processor::Meter;
use crate::redis::{Redis, Request};
use crate::results::{Values, values};
use crate::statistics::quantile;
use eaves_server::bench::Operation;
use eaves_server::failure::{Failure, Outcome};
use std::time::{Duration, Instant};

const TIME: Duration = Duration::from_secs(5);
const CLIENTS: u32 = 64;
const SIDE: &str = "redis";
const PUT: &str = "put";
const GET: &str = "get";

/// The figure.
pub const FIGURE: Figure = Figure {
    name: "redis",
    title: "Puts and gets, beside Redis",
    minutes: 2,
    about: "64 clients, values of 256 bytes, 100,000 keys. Eaves as in the first figures, on 8 connections, gets linearizable. Redis with a \
            primary and two replicas, `appendonly yes, appendfsync always`, a connection for each client; a put is SET and WAIT 1. That \
            promises less: the replica need not have the write on its disk, nothing keeps another primary from being without it, and a get \
            at the primary does not ask whether it still is one. So it shows what consensus costs, not who is better.",
    metrics: loads::METRICS,
    beside: Some(SIDE),
    targets: &[],
    plotted: loads::PLOTTED,
    run,
};

fn run<'a>(context: &'a Context, recorder: &'a mut Recorder) -> Running<'a> {
    Box::pin(measure(context, recorder))
}

async fn measure(context: &Context, recorder: &mut Recorder) -> Outcome {
    let Some(program) = &context.programs.redis else {
        return Ok(());
    };
    let keys = context.amount(KEYS, 1_000);
    let group = Group::start(&context.programs.eaves, 3, &context.data, &[]).await?;
    fill(group.address(group.leader().await?), keys, VALUE_BYTES).await?;
    let redis = Redis::start(program, &context.data).await?;
    redis.fill(keys).await?;
    let time = context.time(TIME);
    for (case, operation, request) in [
        (PUT, Operation::put(VALUE_BYTES), Request::Put),
        (
            GET,
            Operation::Get {
                serializable: false,
            },
            Request::Get,
        ),
    ] {
        if !context.wants(case) {
            continue;
        }
        let load = Load {
            operation,
            keys,
            ..loads::puts(CLIENTS, 8)
        };
        for round in 1..=context.few_rounds {
            recorder.add(
                case,
                None,
                SIDES[0],
                round,
                load.measure(&group, time).await?,
            );
            let values = of_redis(&redis, request, keys, time).await?;
            recorder.add(case, None, SIDE, round, values);
        }
    }
    Ok(())
}

async fn of_redis(redis: &Redis, request: Request, keys: u64, time: Duration) -> Outcome<Values> {
    let meter = Meter::start(redis.processes())?;
    let began = Instant::now();
    let mut seconds = redis.drive(request, CLIENTS, keys, time).await?;
    let elapsed = began.elapsed().as_secs_f64();
    tokio::time::sleep(SETTLE).await;
    let used = meter.end()?;
    let count = seconds.len() as f64;
    let mut ms = |per_mille| {
        let found = quantile(&mut seconds, per_mille).map(|seconds| seconds * 1e3);
        found.ok_or_else(|| Failure::failed("Redis answered nothing; measure longer"))
    };
    let (p50, p99) = (ms(500)?, ms(990)?);
    let us = |seconds: f64| seconds / count * 1e6;
    Ok(values([
        ("throughput", count / elapsed),
        ("p50", p50),
        ("p99", p99),
        ("server_cpu", us(used.total())),
        ("leader_cpu", us(used.each[0])),
        ("client_cpu", us(used.own)),
        ("others", used.others),
    ]))
}
