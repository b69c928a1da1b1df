//! `TraceLayer` and `MessageTraceLayer`: the spans of a connection and of its messages.

use std::sync::{Arc, Mutex};

use getty::{
    BoxError, CodecLayer, Connection, Request, ServiceBuilder, SessionLayer,
    layers::{MessageTraceLayer, TraceLayer},
};
use getty_test::stream;
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};

use crate::{
    kit::run,
    support::{echo, lines, soon},
};

/// Records every event as the names of its spans and its text.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    spans: Vec<&'static str>,
    /// Ids of the entered spans. The outermost is first.
    entered: Vec<u64>,
    events: Vec<String>,
    /// Names that were recorded in a span after it was created.
    names: Vec<String>,
}

struct Names<'a>(&'a mut Vec<String>);

impl Visit for Names<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        assert_eq!(field.name(), "name");
        self.0.push(value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, _: &dyn std::fmt::Debug) {
        panic!("{field}");
    }
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        match field.name() {
            "message" => self.0.push_str(&format!("{value:?}")),
            "reason" | "connection" => self.0.push_str(&format!(" {value:?}")),
            _ => {}
        }
    }
}

impl Subscriber for Recorder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        !metadata.target().starts_with("tokio")
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut state = self.0.lock().unwrap();
        state.spans.push(span.metadata().name());
        Id::from_u64(state.spans.len() as u64)
    }

    fn record(&self, _: &Id, record: &Record<'_>) {
        record.record(&mut Names(&mut self.0.lock().unwrap().names));
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        let mut state = self.0.lock().unwrap();
        let mut line: String = state
            .entered
            .iter()
            .map(|id| format!("{}: ", state.spans[usize::try_from(id - 1).unwrap()]))
            .collect();
        line.push_str(&text.0);
        state.events.push(line);
    }

    fn enter(&self, span: &Id) {
        self.0.lock().unwrap().entered.push(span.into_u64());
    }

    fn exit(&self, span: &Id) {
        assert_eq!(self.0.lock().unwrap().entered.pop(), Some(span.into_u64()));
    }
}

#[tokio::test(start_paused = true)]
async fn event_of_a_handler_is_inside_the_spans_of_its_message_and_connection() {
    let recorder = Recorder::default();
    let _guard = tracing::subscriber::set_default(recorder.clone());
    let (transport, peer) = stream();
    let (handle, task) = run(
        transport,
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
    handle.add_close_callback("test", 0, |_| tracing::info!("a callback"));
    peer.send("hello\n");
    assert_eq!(soon(peer.line()).await, "hello");
    tracing::info!("elsewhere");
    peer.send("fail\n");
    soon(task).await.unwrap().unwrap();
    let events = std::mem::take(&mut recorder.0.lock().unwrap().events);
    assert_eq!(
        events,
        [
            "connection: connection opened",
            "connection: message: working",
            "connection: message: message handled",
            "elsewhere",
            "connection: message: working",
            "connection: message: message failed",
            "connection: a callback",
            "connection: connection closed \"handler\"",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn name_that_is_set_after_the_open_is_recorded_in_the_span() {
    let recorder = Recorder::default();
    let _guard = tracing::subscriber::set_default(recorder.clone());
    let names = || recorder.0.lock().unwrap().names.clone();
    let (transport, peer) = stream();
    let (handle, task) = run(
        transport,
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
    peer.send("hello\n");
    soon(peer.line()).await;
    assert!(names().is_empty());
    peer.send("LOGIN ada\nhello\n");
    soon(peer.lines(2)).await;
    assert_eq!(names(), ["ada"]);
    peer.send("hello\n");
    soon(peer.line()).await;
    assert_eq!(names(), ["ada"]);
    // From another task: at the latest before the close event.
    handle.set_name("eve");
    handle.close();
    soon(task).await.unwrap().unwrap();
    assert_eq!(names(), ["ada", "eve"]);
}

#[tokio::test]
async fn log_names_the_connection_that_was_refused() {
    let recorder = Recorder::default();
    let _guard = tracing::subscriber::set_default(recorder.clone());
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
        while recorder.0.lock().unwrap().events.is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    server.abort();
    let events = std::mem::take(&mut recorder.0.lock().unwrap().events);
    let [event] = &events[..] else {
        panic!("{events:?}");
    };
    assert!(
        event.starts_with("a connection ended before its session opened "),
        "{event}"
    );
    assert!(event.contains(&client_address), "{event}: {client_address}");
}
