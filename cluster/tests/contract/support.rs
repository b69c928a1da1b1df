//! Sessions and waits of the tests.

use std::time::Duration;

use crate::guest;

pub(crate) type Guest = guest::Guest<String>;

/// Lets other tasks run until `condition` is true, at most for a minute.
pub(crate) async fn until(condition: impl Fn() -> bool) {
    for n in 0..61_000 {
        if condition() {
            return;
        }
        // Without a pause the clock of the bus in memory stands still.
        if n < 1000 {
            tokio::task::yield_now().await;
        } else {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    panic!("the condition has not become true");
}
