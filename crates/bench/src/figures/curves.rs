//! How the cost of a put grows: with the number of clients, the size of values, the number of keys.

use super::loads::{self, KEYS};
use super::{Figure, Running};
use crate::context::{Context, Recorder};
use crate::group::Group;
use crate::load::{Load, fill_by_transactions};
use crate::report::count;
use eaves_server::bench::Operation;
use eaves_server::failure::Outcome;
use std::time::Duration;

const TIME: Duration = Duration::from_secs(4);
const CLIENTS: u32 = 64;
const CONNECTIONS: u32 = 8;
/// With a MiB from each of 64, a node would have more at once than it takes on.
const CLIENTS_OF_VALUES: u32 = 32;
/// More bytes of different values than this are not kept, so that no disk fills up and etcd's quota (2 GiB) is not met.
const KEPT_BYTES: u64 = 256 << 20;

/// With clients.
pub const BY_CLIENTS: Figure = Figure {
    name: "clients",
    title: "Puts by the number of clients",
    minutes: 3,
    about: "Puts of 256 bytes as in the first figure, eight clients on a connection, on 16 connections at most.",
    metrics: loads::METRICS,
    beside: Some("etcd"),
    targets: &[],
    plotted: loads::PLOTTED,
    run: by_clients,
};

/// With values.
pub const BY_VALUES: Figure = Figure {
    name: "values",
    title: "Puts by the size of values",
    minutes: 5,
    about: "32 clients on 8 connections; so many keys that their values are 256 MiB at most. With a MiB from each of 64 clients a node of \
            Eaves would have more at once than it takes on (64 MiB), and refuse some.",
    metrics: loads::METRICS,
    beside: Some("etcd"),
    targets: &[],
    plotted: loads::PLOTTED,
    run: by_values,
};

/// With keys.
pub const BY_KEYS: Figure = Figure {
    name: "keys",
    title: "Puts by the number of keys",
    minutes: 8,
    about: "64 clients on 8 connections put random ones of so many keys, values of 64 bytes, after every key was put once, most of them by \
            transactions of a hundred.",
    metrics: loads::METRICS,
    beside: Some("etcd"),
    targets: &[],
    plotted: loads::PLOTTED,
    run: by_keys,
};

fn by_clients<'a>(context: &'a Context, recorder: &'a mut Recorder) -> Running<'a> {
    Box::pin(async {
        let groups = loads::groups(context, 3, &[]).await?;
        for clients in context.amount(&[1_u32, 4, 16, 64, 256, 1_024, 4_096][..], &[1, 64]) {
            let connections = clients.div_ceil(8).min(16);
            let load = loads::puts(*clients, connections);
            let x = f64::from(*clients);
            let case = (&*format!("{} clients", count(u64::from(*clients))), Some(x));
            loads::in_few_rounds(context, recorder, &groups, case, &load, TIME).await?;
        }
        Ok(())
    })
}

fn by_values<'a>(context: &'a Context, recorder: &'a mut Recorder) -> Running<'a> {
    Box::pin(async {
        let all = &[
            16, 64, 256, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576,
        ][..];
        for bytes in context.amount(all, &[16, 65_536]) {
            // New servers for each size: what the larger ones leave behind would weigh on the others.
            let groups = loads::groups(context, 3, &[]).await?;
            let load = Load {
                operation: Operation::put(*bytes),
                clients: CLIENTS_OF_VALUES,
                connections: CONNECTIONS,
                keys: (KEPT_BYTES / *bytes as u64).clamp(1, KEYS),
                rate: None,
            };
            let x = *bytes as f64;
            let case = (&*format!("{} B", count(*bytes as u64)), Some(x));
            loads::in_few_rounds(context, recorder, &groups, case, &load, TIME).await?;
        }
        Ok(())
    })
}

fn by_keys<'a>(context: &'a Context, recorder: &'a mut Recorder) -> Running<'a> {
    Box::pin(async {
        for keys in context.amount(
            &[10_000, 100_000, 1_000_000, 10_000_000][..],
            &[1_000, 10_000],
        ) {
            let groups = filled(context, 3, *keys).await?;
            let load = Load {
                operation: Operation::put(SMALL_VALUE_BYTES),
                keys: *keys,
                ..loads::puts(CLIENTS, CONNECTIONS)
            };
            let x = *keys as f64;
            let case = (&*format!("{} keys", count(*keys)), Some(x));
            loads::in_few_rounds(context, recorder, &groups, case, &load, TIME).await?;
        }
        Ok(())
    })
}

/// Where the number of keys is what counts.
pub(super) const SMALL_VALUE_BYTES: usize = 64;

/// So many servers of each program, with so many keys.
pub(super) async fn filled(context: &Context, size: usize, keys: u64) -> Outcome<Vec<Group>> {
    let mut groups = Vec::new();
    let etcd = context.programs.etcd.as_ref();
    // etcd stops at 2 GiB unless told otherwise.
    let quota: &[&str] = &["--quota-backend-bytes", "17179869184"];
    for (program, flags) in [(Some(&context.programs.eaves), &[][..]), (etcd, quota)] {
        let Some(program) = program else { continue };
        let group = Group::start(program, size, &context.data, flags).await?;
        eprintln!("  filling {} with {keys} keys", group.side());
        let leader = group.address(group.leader().await?);
        fill_by_transactions(leader, keys, SMALL_VALUE_BYTES).await?;
        groups.push(group);
    }
    Ok(groups)
}
