//! `CloseCallbackLayer`: one close callback for every session of a stack.

use std::sync::{Arc, Mutex};

use getty::{
    BoxError, CloseReason, CodecLayer, Request, ServiceBuilder, SessionLayer,
    layers::{CloseCallbackLayer, OnOpenLayer},
};
use getty_test::TestSession;

use crate::support::{echo, lines, soon};

#[tokio::test(start_paused = true)]
async fn callback_runs_once_for_every_kind_of_close() {
    let records = Arc::new(Mutex::new(Vec::new()));
    let log = records.clone();
    let stack = ServiceBuilder::new()
        .layer(CloseCallbackLayer::new("test", 0, move |closed| {
            let cause = closed.source.as_ref().map(ToString::to_string);
            let has_read = closed.stats.bytes_in > 0;
            let record = (closed.reason.clone(), cause, has_read);
            log.lock().unwrap().push(record);
        }))
        .layer(CodecLayer::new(lines()))
        .layer(OnOpenLayer::new(|session| async move {
            if session.get() == Some("unwanted") {
                return Err("unwanted");
            }
            Ok(())
        }))
        .layer(SessionLayer::new())
        .service_fn(|request: Request<String>| async move {
            match request.message().as_str() {
                "fail" => Err(BoxError::from("out of order")),
                "panic" => panic!("a bad handler"),
                _ => echo(request).await,
            }
        });
    for (message, reason, cause) in [
        ("end", CloseReason::PeerClosed, None),
        ("fail", CloseReason::Handler, Some("out of order")),
        ("panic", CloseReason::Panicked, Some("a bad handler")),
        ("abort", CloseReason::Dropped, None),
        ("unwanted", CloseReason::Refused, Some("unwanted")),
    ] {
        let session = TestSession::stream(stack.clone());
        let mut has_read = true;
        match message {
            "unwanted" => {
                session.handle().insert("unwanted");
                has_read = false;
            }
            "abort" => {
                session.send("echo\n");
                assert_eq!(soon(session.line()).await, "echo");
                session.abort();
            }
            _ => {
                session.send(format!("{message}\n"));
                session.finish();
            }
        }
        session.closed().await;
        let mut records = records.lock().unwrap();
        let expected = (reason, cause.map(str::to_owned), has_read);
        assert_eq!(std::mem::take(&mut *records), [expected], "{message}");
    }
}
