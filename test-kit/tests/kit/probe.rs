//! The probe finds wrong calls, and its controls work.

use std::task::{Context, Poll, Waker};

use getty::{BoxError, Service, tower::ServiceExt};
use getty_test::{Probe, ProbeHandle, probe, settle};

type Echo = fn(u32) -> Result<u32, BoxError>;

fn echo() -> (Probe<Echo>, ProbeHandle) {
    probe((|n| Ok(n)) as Echo)
}

fn poll_ready(service: &mut Probe<Echo>) -> Poll<Result<(), BoxError>> {
    service.poll_ready(&mut Context::from_waker(Waker::noop()))
}

#[tokio::test]
#[should_panic(expected = "must be called by the clone that was polled ready")]
async fn call_of_an_unready_clone_panics() {
    let (mut service, _control) = echo();
    assert!(poll_ready(&mut service).is_ready());
    let _ = service.clone().call(1).await;
}

#[tokio::test]
#[should_panic(expected = "must be called by the clone that was polled ready")]
async fn caught_violation_is_still_found() {
    let (mut service, control) = echo();
    let call = std::panic::AssertUnwindSafe(|| service.call(1));
    assert!(std::panic::catch_unwind(call).is_err());
    control.assert_idle();
}

#[tokio::test]
#[should_panic(expected = "must give back what it has reserved")]
async fn kept_permit_is_found() {
    let (mut service, control) = echo();
    assert!(poll_ready(&mut service).is_ready());
    assert_eq!(control.reserved(), 1);
    control.assert_idle();
}

#[tokio::test]
#[should_panic(expected = "must drop the inner future")]
async fn kept_call_is_found() {
    let (mut service, control) = echo();
    control.hold();
    let _call = service.ready().await.unwrap().call(1);
    assert_eq!(control.in_flight(), 1);
    control.assert_idle();
}

#[tokio::test]
async fn permits_are_shared_by_clones_and_returned_by_drops() {
    let (mut one, control) = echo();
    control.set_permits(1);
    let mut other = one.clone();
    assert!(poll_ready(&mut one).is_ready());
    assert!(poll_ready(&mut one).is_ready(), "ready stays ready");
    assert!(poll_ready(&mut other).is_pending());
    let call = one.call(1);
    assert!(poll_ready(&mut other).is_pending());
    drop(call);
    assert!(poll_ready(&mut other).is_ready());
    drop(other);
    control.assert_idle();
    assert_eq!((control.calls(), control.callers()), (1, vec![0]));
}

#[tokio::test]
async fn responses_are_held_fail_and_panic() {
    let (mut service, control) = echo();
    control.hold();
    let held = tokio::spawn(service.ready().await.unwrap().call(1));
    settle().await;
    assert!(!held.is_finished());
    control.release();
    assert_eq!(held.await.unwrap().unwrap(), 1);

    control.fail("out of order");
    let error = service.ready().await.unwrap().call(2).await.unwrap_err();
    assert_eq!(error.to_string(), "out of order");

    control.panic("a bad handler");
    let panicked = tokio::spawn(service.ready().await.unwrap().call(3)).await;
    assert!(panicked.unwrap_err().is_panic());

    control.fail_ready("broken");
    let error = service.ready().await.map(|_| ()).unwrap_err();
    assert_eq!(error.to_string(), "broken");

    control.set_pending();
    let waits = tokio::spawn(async move { service.ready().await.map(|_| ()) });
    settle().await;
    assert!(!waits.is_finished());
    control.set_ready();
    waits.await.unwrap().unwrap();
    control.assert_idle();
}
