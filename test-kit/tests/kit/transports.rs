//! Faults of the transports, as a session sees them.

use std::{io, time::Duration};

use getty::{
    CloseReason, CodecLayer, NoReply, Pipeline, ServiceBuilder, Session, SessionLayer, Transport,
    codec::{Lines, Text},
    handle,
};
use getty_test::{Log, TestSession, advance, settle};

const SECOND: Duration = Duration::from_secs(1);

fn echo<T: Transport + Send + 'static>() -> impl Pipeline<T> + Clone {
    ServiceBuilder::new()
        .layer(CodecLayer::new(Lines::new()))
        .layer(SessionLayer::new())
        .service(handle(async |line: String| line))
}

#[tokio::test(start_paused = true)]
async fn reads_are_split_merged_and_delayed() {
    let session = TestSession::stream(echo());
    session.split_reads(2);
    session.send("hello\n");
    assert_eq!(session.line().await, "hello");
    let split = session.counts().reads;
    assert!(split >= 3, "{split}");

    let session = TestSession::stream(echo());
    session.send("a\n");
    session.send("b\n");
    session.merge_reads();
    assert_eq!(session.recv().await, "a\nb\n");

    session.delay(SECOND);
    session.send("late\n");
    session.advance(SECOND / 2).await;
    assert_eq!(session.try_recv(), None);
    session.advance(SECOND / 2).await;
    assert_eq!(session.try_recv().unwrap(), "late\n");
}

#[tokio::test(start_paused = true)]
async fn input_of_a_finished_peer_is_delayed_too() {
    let session = TestSession::messages(echo());
    session.delay(SECOND);
    session.send("late\n");
    session.finish();
    settle().await;
    assert_eq!(session.waiting(), 0);
    assert_eq!(session.text().await, "late\n");
    assert_eq!(session.closed().await.reason, CloseReason::PeerClosed);
}

#[tokio::test(start_paused = true)]
async fn writes_are_short_and_stall() {
    let session = TestSession::stream(echo());
    session.limit_writes(2);
    session.send("hello\n");
    assert_eq!(session.line().await, "hello");

    session.stall();
    session.take(3);
    session.send("hello\n");
    assert_eq!(session.bytes(3).await, b"hel");
    settle().await;
    assert_eq!(session.try_recv(), None);
    session.take_all();
    assert_eq!(session.line().await, "lo");

    let session = TestSession::messages(echo());
    session.stall();
    session.send("hello\n");
    settle().await;
    assert_eq!(session.waiting(), 0);
    session.take_all();
    assert_eq!(session.text().await, "hello\n");
}

#[tokio::test(start_paused = true)]
async fn connection_is_reset_at_a_byte() {
    let session = TestSession::stream(echo());
    session.reset_after_reads(8);
    session.send("hello\nworld\n");
    let closed = session.closed().await;
    assert_eq!(closed.reason, CloseReason::Io);
    assert_eq!((closed.stats.bytes_in, closed.stats.messages_in), (8, 1));

    let session = TestSession::stream(echo());
    session.reset_after_writes(3);
    session.send("hello\n");
    let closed = session.closed().await;
    assert_eq!(closed.reason, CloseReason::Io);
    assert_eq!(closed.stats.bytes_out, 3);

    let session = TestSession::messages(echo());
    session.reset_after_reads(6);
    session.send("hello\n");
    session.send("world\n");
    let closed = session.closed().await;
    assert_eq!(closed.stats.messages_in, 1);
    assert_eq!(closed.reason, CloseReason::Io);
}

#[tokio::test(start_paused = true)]
async fn half_open_peer_takes_what_fits_and_never_ends() {
    let session = TestSession::stream(
        ServiceBuilder::new()
            .layer(CodecLayer::new(Lines::new()))
            .layer(SessionLayer::new())
            .service(handle(async |line: String, session: Session<String>| {
                session.try_send("a push".to_owned()).unwrap();
                session.close();
                line
            })),
    );
    session.send("hello\n");
    session.half_open(4);
    session.send("lost\n");
    let closed = session.closed().await;
    assert_eq!(closed.stats.messages_in, 1);
    assert_eq!(closed.stats.bytes_out, 4);
    assert!(closed.unsent_bytes > 0);
    assert_eq!(closed.lifetime, 5 * SECOND, "the drain deadline");
}

#[tokio::test(start_paused = true)]
async fn random_faults_change_no_output_and_repeat() {
    let mut counts = Vec::new();
    for seed in [1, 2, 3, 1] {
        let session = TestSession::stream(echo());
        session.randomize(seed);
        let input: String = (0..50).map(|n| format!("line {n}\n")).collect();
        session.send_in_pieces(&input, 7);
        session.finish();
        let closed = session.closed().await;
        assert_eq!(session.output(), input, "seed {seed}");
        assert_eq!(closed.reason, CloseReason::PeerClosed, "seed {seed}");
        counts.push(session.counts());
    }
    assert_eq!(counts[0], counts[3]);
    assert_ne!(counts[0], counts[1]);

    for seed in 0..4 {
        let session = TestSession::messages(echo());
        session.randomize(seed);
        session.send("hello\n");
        assert_eq!(session.text().await, "hello\n");
    }
}

#[tokio::test(start_paused = true)]
async fn writes_fail_with_a_chosen_error() {
    let session = TestSession::stream(echo());
    session.fail_writes(io::ErrorKind::TimedOut);
    session.send("hello\n");
    let source = session.closed().await.source.unwrap();
    let error: &io::Error = source.downcast_ref().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
}

#[tokio::test(start_paused = true)]
async fn datagrams_are_lost() {
    let session = TestSession::datagrams(echo());
    session.lose(3);
    session.send("hello\n");
    assert_eq!(session.text().await, "hello\n");
    assert_eq!(session.stats().skipped, 3);
}

#[tokio::test(start_paused = true)]
async fn session_closes_from_each_side() {
    let session = TestSession::stream(echo());
    session.close();
    assert_eq!(session.closed().await.reason, CloseReason::Local);
    assert!(session.is_shut() && session.is_gone());

    let session = TestSession::messages(echo());
    session.close_with(CloseReason::TakenOver);
    session.ended().await;
    assert_eq!(session.closed_with(), Some(CloseReason::TakenOver));

    let session = TestSession::stream(echo());
    settle().await;
    session.abort();
    assert_eq!(session.closed().await.reason, CloseReason::Dropped);

    let mut session = TestSession::stream(echo());
    session.finish();
    assert!(session.result().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn messages_are_coded_by_the_codec_of_the_test() {
    let mut codec = Lines::new();
    let session = TestSession::stream(echo());
    session.send_with(&mut codec, "hello".to_owned());
    session.send_with(&mut codec, "world".to_owned());
    assert_eq!(session.recv_with(&mut codec).await, "hello");
    assert_eq!(session.recv_with(&mut codec).await, "world");

    let session = TestSession::messages(echo());
    session.send_with(&mut codec, "hello".to_owned());
    assert_eq!(session.recv_with(&mut codec).await, "hello");
    // a codec that decodes a whole message only
    session.send_with(&mut Text::new(), "world".to_owned());
    assert_eq!(session.recv_with(&mut Text::new()).await, "world\n");
}

#[tokio::test(start_paused = true)]
async fn values_need_no_format() {
    #[derive(Debug)]
    struct NoFormat(u32);

    let session = TestSession::values(|codec| {
        ServiceBuilder::new()
            .layer(CodecLayer::new(codec))
            .layer(SessionLayer::new())
            .service(handle(
                async |NoFormat(n): NoFormat, session: Session<NoFormat>| {
                    session.try_send(NoFormat(n + 1)).unwrap();
                    NoFormat(n)
                },
            ))
    });
    session.send(NoFormat(7));
    assert_eq!(session.recv().await.0, 8);
    assert_eq!(session.recv().await.0, 7);
    assert!(session.try_recv().is_none());
    session.finish();
    assert_eq!(session.closed().await.stats.messages_out, 2);
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "the session ended before the next line; not received: b\"half\"")]
async fn line_of_an_ended_session_fails() {
    let session = TestSession::stream(
        ServiceBuilder::new()
            .layer(CodecLayer::new(getty::codec::Raw::new()))
            .layer(SessionLayer::new())
            .service(handle(async |bytes: bytes::Bytes| bytes)),
    );
    session.send("half");
    session.finish();
    let _ = session.line().await;
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "no message within")]
async fn message_that_never_comes_fails() {
    let session = TestSession::messages(
        ServiceBuilder::new()
            .layer(CodecLayer::new(Lines::new()))
            .layer(SessionLayer::new())
            .service(handle(async |_: String| NoReply)),
    );
    session.send("hello\n");
    let _ = session.recv().await;
}

#[tokio::test]
#[should_panic(expected = "the test kit needs a paused clock")]
async fn session_needs_a_paused_clock() {
    let _ = TestSession::stream(echo());
}

#[tokio::test(start_paused = true)]
async fn log_knows_spans_and_fields() {
    let log = Log::capture();
    let span = tracing::info_span!("outer", peer = "a", late = tracing::field::Empty);
    span.record("late", 3);
    span.in_scope(|| {
        let inner = tracing::debug_span!("inner", peer = "b");
        tracing::warn!(parent: &inner, n = 1, "explicit");
        tracing::trace!("below the level");
        tracing::info!("contextual");
    });
    let event = log.event("explicit");
    assert_eq!(event.spans, ["outer", "inner"]);
    assert_eq!((event.field("n"), event.span_field("peer")), ("1", "b"));
    assert_eq!(event.span_field("late"), "3");
    assert_eq!(log.event("contextual").spans, ["outer"]);
    assert_eq!(log.events().len(), 2);
    assert_eq!(log.spans()[1].field("peer"), "b");
    assert_eq!(log.spans()[0].recorded("late").collect::<Vec<_>>(), ["3"]);
    assert_eq!(log.spans()[0].recorded("peer").count(), 0);

    drop(log);
    let silent = Log::disabled();
    tracing::error!("not captured");
    assert!(silent.events().is_empty());
    advance(SECOND).await;
}

#[test]
#[should_panic(expected = "captures no warnings")]
fn log_without_warnings_asserts_nothing_of_them() {
    Log::capture_at(tracing::Level::ERROR).assert_no_warnings();
}

#[test]
#[should_panic(expected = "expected no warnings")]
fn warning_is_found() {
    let log = Log::capture();
    tracing::warn!("something");
    log.assert_no_warnings();
}
