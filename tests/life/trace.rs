//! `TraceLayer` and `MessageTraceLayer`: the spans of a connection and of its messages.

use getty::{
    BoxError, CodecLayer, Connection, Request, ServiceBuilder, SessionLayer,
    layers::{MessageTraceLayer, TraceLayer},
};
use getty_test::{Log, LogEvent, TestSession};

use crate::support::{echo, lines, soon};

/// Returns each event as the names of its spans and its text.
fn lines_of(log: &Log) -> Vec<String> {
    let line = |event: &LogEvent| {
        let spans: String = event.spans.iter().map(|name| format!("{name}: ")).collect();
        let reason = event.field("reason");
        format!("{spans}{} {reason}", event.message())
    };
    let lines = log.events().iter().map(line).collect::<Vec<_>>();
    lines
        .iter()
        .map(|line| line.trim_end().to_owned())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn event_of_a_handler_is_inside_the_spans_of_its_message_and_connection() {
    let log = Log::capture();
    let session = TestSession::stream(
        ServiceBuilder::new()
            .layer(TraceLayer::new())
            .layer(CodecLayer::new(lines()))
            .layer(SessionLayer::new())
            .layer(MessageTraceLayer::new())
            .service_fn(|request: Request<String>| async move {
                tracing::info!("working");
                tokio::task::yield_now().await;
                if request.message() == "fail" {
                    return Err(BoxError::from("out of order"));
                }
                echo(request).await
            }),
    );
    session
        .handle()
        .add_close_callback("test", 0, |_| tracing::info!("a callback"));
    session.send("hello\n");
    assert_eq!(soon(session.line()).await, "hello");
    tracing::info!("elsewhere");
    session.send("fail\n");
    session.closed().await;
    assert_eq!(
        lines_of(&log),
        [
            "connection: connection opened",
            "connection: message: working",
            "connection: message: message handled",
            "elsewhere",
            "connection: message: working",
            "connection: message: message failed",
            "connection: a callback",
            "connection: connection closed handler",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn name_that_is_set_after_the_open_is_recorded_in_the_span() {
    let log = Log::capture();
    let names = || -> Vec<String> {
        let spans = log.spans();
        let names = spans.iter().flat_map(|span| span.recorded("name"));
        names.map(str::to_owned).collect()
    };
    let session = TestSession::stream(
        ServiceBuilder::new()
            .map_request(|connection: Connection<_>| {
                // In the span from its beginning.
                connection.handle().set_name("before");
                connection
            })
            .layer(TraceLayer::new())
            .layer(CodecLayer::new(lines()))
            .layer(SessionLayer::new())
            .service_fn(|request: Request<String>| async move {
                if let Some(name) = request.message().strip_prefix("LOGIN ") {
                    request.session().set_name(name);
                }
                echo(request).await
            }),
    );
    session.send("hello\n");
    soon(session.line()).await;
    assert!(names().is_empty());
    session.send("LOGIN ada\nhello\n");
    soon(session.lines(2)).await;
    assert_eq!(names(), ["ada"]);
    session.send("hello\n");
    soon(session.line()).await;
    assert_eq!(names(), ["ada"]);
    // From another task: at the latest before the close event.
    session.handle().set_name("eve");
    session.handle().close();
    session.closed().await;
    assert_eq!(names(), ["ada", "eve"]);
}

#[tokio::test]
async fn log_names_the_connection_that_was_refused() {
    let log = Log::capture();
    let (listener, connector) = getty::net::memory(64);
    let refuse = getty::service_fn(
        |connection: Connection<tokio::io::DuplexStream>| async move {
            drop(connection);
            Err::<getty::Closed, _>(BoxError::from("not today"))
        },
    );
    let server = tokio::spawn(async move { getty::serve(listener, refuse).await });
    let connection = connector.connect().await.unwrap();
    let client_address = connection.handle().local_addr().to_string();
    soon(async {
        while log.events().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    server.abort();
    let event = log.event("a connection ended before its session opened");
    let connection = event.field("connection");
    assert!(connection.contains(&client_address), "{connection}");
}
