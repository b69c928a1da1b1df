//! Many tasks that send concurrently.

use std::{collections::BTreeSet, future::poll_fn, task::Poll};

use getty_core::driver::Driver;

use super::pair;

/// Encodes queued messages until the session closes or `until` messages are sent. Returns the
/// messages.
async fn drive(mut driver: Driver<(u32, u32)>, until: usize) -> Vec<(u32, u32)> {
    let mut left = Vec::new();
    poll_fn(|cx| {
        driver.register(cx);
        if driver.session().is_closing() {
            driver.close_queue();
        }
        while left.len() < until
            && let Some(outgoing) = driver.next_outgoing()
        {
            if let Some(ticket) = &outgoing.ticket {
                driver.complete(ticket, 1);
            }
            left.extend(outgoing.into_message());
        }
        driver.set_backpressure(false);
        if left.len() == until || driver.session().is_closing() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    left
}

const TASKS: u32 = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_send_in_order_and_lose_nothing() {
    const EACH: u32 = 500;

    let (session, driver, _connection) = pair(4);
    let driving = tokio::spawn(drive(driver, usize::MAX));
    let senders = (0..TASKS).map(|task| {
        let session = session.clone();
        tokio::spawn(async move {
            let mut given_up = BTreeSet::new();
            for n in 0..EACH {
                match n % 3 {
                    0 => drop(session.send((task, n)).await.unwrap()),
                    1 => session.feed((task, n)).await.unwrap(),
                    _ => {
                        // a sender that gives up after the first poll in any state
                        let mut send = Box::pin(session.send((task, n)));
                        if poll_fn(|cx| Poll::Ready(send.as_mut().poll(cx).is_pending())).await {
                            given_up.insert((task, n));
                        }
                    }
                }
            }
            given_up
        })
    });
    let senders: Vec<_> = senders.collect();
    let mut given_up = BTreeSet::new();
    for sender in senders {
        given_up.append(&mut sender.await.unwrap());
    }
    session.close();
    let left = driving.await.unwrap();
    for task in 0..TASKS {
        let of_task: Vec<_> = left.iter().filter(|(from, _)| *from == task).collect();
        assert!(of_task.is_sorted(), "out of order: {of_task:?}");
    }
    let unique: BTreeSet<_> = left.iter().copied().collect();
    assert_eq!(unique.len(), left.len(), "sent twice");
    let all = (0..TASKS).flat_map(|task| (0..EACH).map(move |n| (task, n)));
    let missing: Vec<_> = all.filter(|message| !unique.contains(message)).collect();
    assert!(
        missing.iter().all(|message| given_up.contains(message)),
        "lost: {missing:?}"
    );
    assert_eq!(session.queued(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_sender_learns_its_outcome_when_the_driver_ends() {
    const UNTIL: usize = 400;

    let (session, driver, _connection) = pair(4);
    let driving = tokio::spawn(drive(driver, UNTIL));
    let senders = (0..TASKS).map(|task| {
        let session = session.clone();
        tokio::spawn(async move {
            let mut sent = Vec::new();
            for n in 0.. {
                match session.send((task, n)).await {
                    Ok(_) => sent.push((task, n)),
                    Err(error) => {
                        assert!(error.is_closed());
                        assert_eq!(error.into_message(), Some((task, n)));
                        break;
                    }
                }
            }
            sent
        })
    });
    let senders: Vec<_> = senders.collect();
    let mut sent = BTreeSet::new();
    for sender in senders {
        sent.extend(sender.await.unwrap());
    }
    let left: BTreeSet<_> = driving.await.unwrap().into_iter().collect();
    // each message is either sent or returned
    assert_eq!(left.len(), UNTIL);
    assert_eq!(sent, left);
}
