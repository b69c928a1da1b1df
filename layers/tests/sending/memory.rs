//! Messages under a memory budget.

use std::task::Poll;

use bytes::Bytes;
use getty_core::{MemoryBudget, Offered, SendError, Session, SlowConsumer};
use tokio_test::{assert_pending, task};

use super::{drain, pair, turn};

/// Offers a message that may be dropped in favour of a later one.
fn offer(session: &Session<String>, message: &str) -> Result<Offered, SendError<String>> {
    let offer = session.offer(message.to_owned(), SlowConsumer::DropOldest);
    match task::spawn(offer).poll() {
        Poll::Ready(offered) => offered,
        Poll::Pending => panic!("it never waits"),
    }
}

#[test]
fn what_was_queued_before_a_budget_came_is_charged_to_it_though_it_is_used_up() {
    let budget = MemoryBudget::new(32 * 1024);
    let mut hogs = [27 * 1024, 1].map(|bytes| {
        let (session, mut driver, connection) = pair::<String>(64);
        driver.set_memory_budget(budget.clone());
        let sending = async move { session.send_raw(Bytes::from(vec![0; bytes])).await };
        let mut sending = task::spawn(Box::pin(sending));
        assert_pending!(sending.poll());
        (driver, connection, sending)
    });
    assert_eq!(budget.used(), budget.limit());

    let (session, mut driver, _connection) = pair::<String>(1);
    assert_eq!(offer(&session, "old").unwrap(), Offered::Queued);
    driver.set_memory_budget(budget.clone());
    assert!(budget.used() > budget.limit(), "it is there, come what may");
    assert_eq!(offer(&session, "new").unwrap(), Offered::Replaced);
    assert_eq!(drain(&mut driver), ["new"]);
    driver.charge_written(0);
    assert_eq!(budget.used(), budget.limit());
    for (driver, ..) in &mut hogs {
        turn(driver);
    }
    drop((driver, hogs));
    assert_eq!(budget.used(), 0);
}

#[test]
fn news_for_which_there_is_no_memory_drop_nothing() {
    let budget = MemoryBudget::new(64 * 1024);
    let (session, mut driver, _connection) = pair::<String>(1);
    driver.set_weight(String::len);
    driver.set_memory_budget(budget.clone());
    assert_eq!(offer(&session, "old").unwrap(), Offered::Queued);
    let used = budget.used();
    let large = "x".repeat(100 * 1024);
    match offer(&session, &large) {
        Err(SendError::Budget(message)) => assert_eq!(message, large),
        other => panic!("{other:?}"),
    }
    assert_eq!(budget.used(), used);
    assert_eq!(drain(&mut driver), ["old"]);
    assert_eq!(session.stats().dropped, 0);
    driver.charge_written(0);
    assert_eq!(budget.used(), 0);
}

#[test]
fn a_message_of_more_bytes_than_can_be_counted_is_refused() {
    let budget = MemoryBudget::new(64 * 1024);
    let (session, mut driver, _connection) = pair::<String>(4);
    driver.set_weight(|message| {
        if message == "endless" {
            usize::MAX
        } else {
            message.len()
        }
    });
    driver.set_memory_budget(budget.clone());
    session.try_send("one".to_owned()).unwrap();
    let refused = session.try_send("endless".to_owned());
    assert!(matches!(refused, Err(SendError::Budget(_))), "{refused:?}");
    assert_eq!(drain(&mut driver), ["one"]);
    driver.charge_written(0);
    assert_eq!(budget.used(), 0);
}
