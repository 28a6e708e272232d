//! What a benchmark prints.

use super::load::Measured;
use super::plan::{Operation, Plan};
use crate::failure::{Failure, Outcome};
use crate::print::Output;
use serde_json::{Value, json};
use std::time::Duration;

/// The quantiles told, in thousandths.
const QUANTILES: [(&str, u64); 4] = [("p50", 500), ("p90", 900), ("p99", 990), ("p99.9", 999)];

/// Prints the result. It is a failure when no request succeeded.
pub fn print(plan: &Plan, measured: &Measured, as_json: bool) -> Outcome {
    let mut output = Output::new();
    if as_json {
        output.json(&json(plan, measured))?;
    } else {
        for line in text(plan, measured) {
            output.line(&line)?;
        }
    }
    output.flush()?;
    match measured.errors.iter().max_by_key(|(_, count)| **count) {
        Some((cause, _)) if measured.latencies.count() == 0 => Err(Failure::failed(format!(
            "no request succeeded: {cause}; look at `eaves status`"
        ))),
        _ => Ok(()),
    }
}

fn text(plan: &Plan, measured: &Measured) -> Vec<String> {
    let latencies = &measured.latencies;
    let quantiles = QUANTILES
        .map(|(name, per_mille)| format!("{name} {}", time(latencies.quantile(per_mille))));
    let mut lines = vec![
        describe(plan),
        format!(
            "throughput  {:.0} per second ({} in {:.2} s)",
            throughput(measured),
            latencies.count(),
            measured.elapsed.as_secs_f64()
        ),
        format!(
            "latency     {}  max {}  mean {}",
            quantiles.join("  "),
            time(latencies.max()),
            time(latencies.mean())
        ),
        format!("errors      {}", measured.failed()),
    ];
    lines.extend(
        measured
            .errors
            .iter()
            .map(|(cause, count)| format!("            {count} times: {cause}")),
    );
    if measured.not_found > 0 {
        lines.push(format!(
            "not found   {} (`eaves bench put` makes the keys)",
            measured.not_found
        ));
    }
    lines
}

fn describe(plan: &Plan) -> String {
    let operation = match &plan.operation {
        Operation::Put(value) => format!("put, {}-byte values", value.len()),
        Operation::Get { serializable: true } => "get, serializable".to_string(),
        Operation::Get {
            serializable: false,
        } => "get, linearizable".to_string(),
    };
    let pace = plan.rate.map_or("closed loop".to_string(), |rate| {
        format!("{rate} per second wanted")
    });
    let endpoints: Vec<String> = plan.endpoints.iter().map(ToString::to_string).collect();
    format!(
        "{operation}, {} keys, {} clients on {} connections to {}, {pace}",
        plan.key_space,
        plan.clients,
        plan.connections,
        endpoints.join(","),
    )
}

fn json(plan: &Plan, measured: &Measured) -> Value {
    let latencies = &measured.latencies;
    let microseconds = |duration: Duration| duration.as_nanos() as f64 / 1000.0;
    let (operation, value_size, consistency) = match &plan.operation {
        Operation::Put(value) => ("put", Some(value.len()), None),
        Operation::Get { serializable } => {
            ("get", None, Some(if *serializable { "s" } else { "l" }))
        }
    };
    json!({
        "operation": operation,
        "value_size": value_size,
        "consistency": consistency,
        "clients": plan.clients,
        "connections": plan.connections,
        "key_space": plan.key_space,
        "target_rate": plan.rate,
        "endpoints": plan.endpoints.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "seconds": measured.elapsed.as_secs_f64(),
        "succeeded": latencies.count(),
        "throughput_per_second": throughput(measured),
        "latency_us": {
            "mean": microseconds(latencies.mean()),
            "p50": microseconds(latencies.quantile(500)),
            "p90": microseconds(latencies.quantile(900)),
            "p99": microseconds(latencies.quantile(990)),
            "p999": microseconds(latencies.quantile(999)),
            "max": microseconds(latencies.max()),
        },
        "errors": measured.failed(),
        "errors_by_message": measured.errors,
        "not_found": measured.not_found,
    })
}

fn throughput(measured: &Measured) -> f64 {
    measured.latencies.count() as f64 / measured.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
}

/// A duration with three significant digits or so.
pub(super) fn time(duration: Duration) -> String {
    match duration.as_nanos() {
        0..1_000_000 => format!("{:.0} us", duration.as_nanos() as f64 / 1e3),
        1_000_000..10_000_000 => format!("{:.2} ms", duration.as_secs_f64() * 1e3),
        10_000_000..1_000_000_000 => format!("{:.1} ms", duration.as_secs_f64() * 1e3),
        _ => format!("{:.2} s", duration.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Address;

    fn plan() -> Plan {
        Plan {
            operation: Operation::Get {
                serializable: false,
            },
            clients: 2,
            connections: 1,
            total: 4,
            limit: None,
            rate: None,
            key_space: 10,
            in_turn: false,
            endpoints: vec![Address::new("a", 1)],
            timeout: Duration::from_secs(1),
        }
    }

    fn measured() -> Measured {
        let mut measured = Measured {
            elapsed: Duration::from_secs(2),
            not_found: 1,
            ..Default::default()
        };
        for milliseconds in [1, 2, 400] {
            measured
                .latencies
                .record(Duration::from_millis(milliseconds));
        }
        measured.errors.insert("etcdserver: no leader".into(), 1);
        measured
    }

    #[test]
    fn the_text_says_everything() {
        let lines = text(&plan(), &measured());
        assert_eq!(
            lines[0],
            "get, linearizable, 10 keys, 2 clients on 1 connections to a:1, closed loop"
        );
        assert_eq!(lines[1], "throughput  2 per second (3 in 2.00 s)");
        assert!(lines[2].contains("max 400.0 ms"), "{}", lines[2]);
        assert_eq!(
            lines[3..],
            [
                "errors      1",
                "            1 times: etcdserver: no leader",
                "not found   1 (`eaves bench put` makes the keys)",
            ]
        );
    }

    #[test]
    fn the_json_has_the_same_numbers() {
        let json = json(&plan(), &measured());
        assert_eq!(json["throughput_per_second"], 1.5);
        assert_eq!(json["latency_us"]["max"], 400_000.0);
        assert_eq!(
            (json["errors"].as_u64(), json["consistency"].as_str()),
            (Some(1), Some("l"))
        );
    }

    #[test]
    fn durations_have_a_fitting_unit() {
        assert_eq!(time(Duration::from_micros(870)), "870 us");
        assert_eq!(time(Duration::from_micros(4_321)), "4.32 ms");
        assert_eq!(time(Duration::from_millis(1_500)), "1.50 s");
    }
}
