//! Named checks that print one line each.

use std::error::Error;
use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use etcd_client::Error as ClientError;

/// How long a check may take before it counts as failed. Far longer than any needs.
const CHECK_LIMIT: Duration = Duration::from_secs(30);

/// Nothing, or why the check failed.
pub type Outcome = Result<(), Box<dyn Error>>;

/// Runs checks and reports them.
#[derive(Default)]
pub struct Checks {
    pub failed: usize,
}

impl Checks {
    /// Runs one check. Later checks run whatever comes of it.
    pub async fn run(&mut self, name: &str, check: impl Future<Output = Outcome>) {
        let outcome = match tokio::time::timeout(CHECK_LIMIT, check).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("it did not finish within {CHECK_LIMIT:?}").into()),
        };
        match outcome {
            Ok(()) => println!("ok {name}"),
            Err(reason) => {
                self.failed += 1;
                println!("FAILED {name}: {}", reason.to_string().replace('\n', " | "));
            }
        }
    }
}

/// Fails unless both are equal.
pub fn expect<T: PartialEq + Debug>(got: T, wanted: T) -> Outcome {
    if got == wanted {
        return Ok(());
    }
    Err(format!("it is {got:?}, should be {wanted:?}").into())
}

/// Fails unless the condition holds.
pub fn ensure(holds: bool, what: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(()) } else { Err(what().into()) }
}

/// Fails unless the call failed with this status code (a number, see gRPC's `Code`) and text.
pub fn refused<T: Debug>(answer: Result<T, ClientError>, code: i32, text: &str) -> Outcome {
    match answer {
        Err(ClientError::GRpcStatus(status)) => {
            expect((status.code() as i32, status.message()), (code, text))
        }
        other => Err(format!("the answer is {other:?}, should be the error {text:?}").into()),
    }
}
