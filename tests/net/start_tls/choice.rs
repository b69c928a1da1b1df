//! Handshakes in an open session with the settings of a `TlsLayer`.

use std::time::Duration;

use getty::{
    CloseReason, Rate,
    tls::{TlsError, TlsLayer, TlsRefusal, rustls::AlertDescription},
    upgrade::StartTlsLayer,
};
use tokio::time::{Instant, sleep};

use super::{
    super::tls::kit::{Authority, NAME, settings, trusting},
    Server, failure, line, secure, send,
};

#[tokio::test(start_paused = true)]
async fn configuration_is_chosen_by_the_hello() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (chosen, wrong) = [&authority, &other]
        .map(|authority| settings(authority).load().unwrap())
        .into();
    let tls = TlsLayer::choose(move |hello| match hello.server_name() {
        Some(NAME) => Ok(chosen.clone()),
        _ => Ok(wrong.clone()),
    });
    let mut server = Server::with_layer(StartTlsLayer::from_layer(tls));
    let (io, session) = server.started().await;
    let mut io = secure(io, trusting(&authority)).await.unwrap();
    send(&mut io, "tls?\n").await;
    assert_eq!(line(&mut io).await, format!("tls Some({NAME:?})"));
    assert!(session.upgraded().await);
}

#[tokio::test(start_paused = true)]
async fn refusal_of_the_choice_reaches_the_client_as_an_alert() {
    let authority = Authority::new();
    let tls = TlsLayer::choose(|_| Err(TlsRefusal::unrecognized_name()));
    let mut server = Server::with_layer(StartTlsLayer::from_layer(tls));
    let (io, session) = server.started().await;
    let error = secure(io, trusting(&authority)).await.err().unwrap();
    let Some(TlsError::RefusedByPeer(alert)) = error.downcast_ref() else {
        panic!("no alert: {error:?}")
    };
    assert_eq!(*alert, AlertDescription::UnrecognisedName);
    let error: TlsError = failure(&server.end().await, &CloseReason::UpgradeFailed);
    assert!(matches!(error, TlsError::Refused(_)), "{error}");
    assert!(!session.upgraded().await);
}

#[tokio::test(start_paused = true)]
async fn handshakes_wait_for_the_rate_and_share_it_with_clones_of_the_layer() {
    let authority = Authority::new();
    let period = Duration::from_secs(4);
    let tls = TlsLayer::new(settings(&authority).load().unwrap())
        .with_handshake_rate(Rate::new(1, period));
    let mut server = Server::with_layer(StartTlsLayer::from_layer(tls.clone()));
    let mut other =
        Server::with_layer(StartTlsLayer::from_layer(tls).with_handshake_timeout(period / 2));
    // The time counts from the go-ahead, so a session may be older.
    let (io, _session) = server.dial().await;
    sleep(10 * period).await;
    let started = Instant::now();
    let mut io = io;
    send(&mut io, "STARTTLS\n").await;
    assert_eq!(line(&mut io).await, "220 ready");
    let _first = secure(io, trusting(&authority)).await.unwrap();
    assert_eq!(started.elapsed(), Duration::ZERO);
    let (io, _session) = server.started().await;
    let _second = secure(io, trusting(&authority)).await.unwrap();
    assert_eq!(started.elapsed(), period);
    // It cannot begin before its own deadline.
    let (io, _session) = other.started().await;
    assert!(secure(io, trusting(&authority)).await.is_err());
    let error = failure(&other.end().await, &CloseReason::UpgradeFailed);
    assert!(matches!(error, TlsError::TooManyHandshakes), "{error}");
    assert_eq!(started.elapsed(), period);
}
