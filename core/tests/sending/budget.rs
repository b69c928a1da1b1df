//! Messages under a memory budget.

use std::task::Poll;

use bytes::Bytes;
use getty_core::{MemoryBudget, Offered, SendError, Session, SlowConsumer};
use tokio_test::{assert_pending, task};

use super::{drain, pair, poll};

/// Offers a message that may be dropped in favour of a later one.
fn offer(session: &Session<String>, message: &str) -> Result<Offered, SendError<String>> {
    let offer = session.offer(message.to_owned(), SlowConsumer::DropOldest);
    match task::spawn(offer).poll() {
        Poll::Ready(offered) => offered,
        Poll::Pending => panic!("this policy never waits"),
    }
}

#[test]
fn messages_queued_before_the_budget_was_set_are_charged_even_without_room() {
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
    assert!(
        budget.used() > budget.limit(),
        "a reply is charged even without room"
    );
    assert_eq!(offer(&session, "new").unwrap(), Offered::Replaced);
    assert_eq!(drain(&mut driver), ["new"]);
    driver.charge_written(0);
    assert_eq!(budget.used(), budget.limit());
    for (driver, ..) in &mut hogs {
        poll(driver);
    }
    drop((driver, hogs));
    assert_eq!(budget.used(), 0);
}

#[test]
fn offer_beyond_the_budget_drops_no_queued_message() {
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
fn message_whose_weight_overflows_is_refused() {
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
