//! Prometheus and OpenTelemetry.
//!
//! An operator needs rates, errors and latencies in Prometheus, and a trace of each message. A
//! failed message must be an error there, and a session of a week must not be one trace of a
//! week.
//!
//! # Program
//!
//! ```
//! use std::time::Duration;
//!
//! use getty::{BoxError, CodecLayer, ServiceBuilder, SessionLayer, codec::Lines, handle};
//! use getty::layers::{HandleErrorLayer, MessageMetricsLayer, MessageTraceLayer};
//! use getty::{layers::{MetricsLayer, TraceLayer}, net::TcpListener};
//! use metrics_exporter_prometheus::PrometheusBuilder;
//! use opentelemetry::trace::TracerProvider;
//! use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider};
//! use tracing::{Level, Metadata};
//! use tracing_subscriber::{filter::{LevelFilter, filter_fn}, fmt, prelude::*};
//!
//! /// Exports the spans of messages and of the application, and not those of connections.
//! fn is_exported(metadata: &Metadata<'_>) -> bool {
//!     *metadata.level() <= Level::INFO && metadata.name() != "connection"
//! }
//!
//! async fn half(line: String) -> Result<String, BoxError> {
//!     let number: u64 = line.parse()?;
//!     Ok((number / 2).to_string())
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), BoxError> {
//!     // before the stack is built
//!     let prometheus = PrometheusBuilder::new()
//!         .set_buckets(&[0.001, 0.01, 0.1, 1.0])?
//!         .install_recorder()?;
//!
//!     let exporter = InMemorySpanExporter::default(); // in production: opentelemetry_otlp
//!     let provider = SdkTracerProvider::builder()
//!         .with_simple_exporter(exporter.clone()) // in production: with_batch_exporter
//!         .build();
//!     let traces = tracing_opentelemetry::layer().with_tracer(provider.tracer("getty"));
//!     tracing_subscriber::registry()
//!         .with(traces.with_filter(filter_fn(is_exported)))
//!         .with(fmt::layer().with_filter(LevelFilter::INFO))
//!         .init();
//!
//!     let messages = MessageTraceLayer::new()
//!         .with_level(Level::INFO)
//!         .with_error_level(Level::ERROR);
//!     let app = ServiceBuilder::new()
//!         .layer(MetricsLayer::new())
//!         .layer(TraceLayer::new())
//!         .layer(CodecLayer::new(Lines::new()))
//!         .layer(SessionLayer::new())
//!         .layer(HandleErrorLayer::new(|error| format!("ERR {error}")))
//!         .layer(MessageMetricsLayer::new().with_latency())
//!         .layer(messages)
//!         .timeout(Duration::from_secs(1))
//!         .service(handle(half));
//!
//!     let listener = TcpListener::bind("127.0.0.1:0").await?;
//!     let address = listener.local_addr()?;
//!     tokio::spawn(getty::serve(listener, app).into_future());
//!
//!     let replies = talk(address, ["42", "forty"]).await?;
//!     assert_eq!(replies, ["21", "ERR invalid digit found in string"]);
//!
//!     // one trace for each message, and the failed one has the status
//!     let spans = exporter.get_finished_spans()?;
//!     let [handled, failed] = &spans[..] else { panic!("{spans:?}") };
//!     assert_eq!((&*handled.name, &*failed.name), ("message", "message"));
//!     assert_ne!(handled.span_context.trace_id(), failed.span_context.trace_id());
//!     assert_eq!(handled.status, opentelemetry::trace::Status::Unset);
//!     assert_eq!(failed.status, opentelemetry::trace::Status::error(""));
//!     assert!(handled.end_time >= handled.start_time); // the latency
//!
//!     let metrics = prometheus.render(); // the body of a response to `GET /metrics`
//!     assert!(metrics.contains("getty_message_errors_total 1"));
//!     assert!(metrics.contains("getty_message_latency_seconds_count 2"));
//!     # // details of the export
//!     # let attribute = |attributes: &[opentelemetry::KeyValue], key: &str| {
//!     #     let found = attributes.iter().find(|attribute| attribute.key.as_str() == key);
//!     #     found.map(|attribute| attribute.value.clone())
//!     # };
//!     # assert_eq!(attribute(&failed.attributes, "connection").unwrap().as_str(), "1");
//!     # let [event] = &failed.events[..] else { panic!() };
//!     # assert_eq!(event.name, "message failed");
//!     # let message = attribute(&event.attributes, "exception.message").unwrap();
//!     # assert_eq!(message.as_str(), "invalid digit found in string");
//!     # let [event] = &handled.events[..] else { panic!() };
//!     # let latency = attribute(&event.attributes, "latency_seconds").unwrap();
//!     # assert!(matches!(latency, opentelemetry::Value::F64(_)));
//!     Ok(())
//! }
//! # async fn talk<const N: usize>(
//! #     address: std::net::SocketAddr,
//! #     lines: [&str; N],
//! # ) -> std::io::Result<Vec<String>> {
//! #     use tokio::io::{AsyncReadExt, AsyncWriteExt};
//! #     let mut stream = tokio::net::TcpStream::connect(address).await?;
//! #     stream.write_all((lines.join("\n") + "\n").as_bytes()).await?;
//! #     stream.shutdown().await?;
//! #     let mut received = String::new();
//! #     stream.read_to_string(&mut received).await?;
//! #     Ok(received.lines().map(str::to_owned).collect())
//! # }
//! ```
//!
//! # Lines that matter
//!
//! - `with_error_level(Level::ERROR)`: tracing-opentelemetry sets the status of a span from an
//!   event of this level only. The default level of the event is `WARN`, which leaves the
//!   status unset. The event and the span have the error as `exception.message`.
//! - `metadata.name() != "connection"`: `TraceLayer` has a span that lasts as long as the
//!   connection. All spans of messages would be its children, in one trace. Without it each
//!   message starts a trace, and the attribute `connection` finds the messages of a session.
//!   The filter applies to the export alone. The logs of `fmt` still show the connection.
//! - `with_level(Level::INFO)`: the span of a message has the level `DEBUG` by default, which
//!   the filters would drop.
//! - The order inside `SessionLayer`: `HandleErrorLayer` is outermost, because errors that it
//!   has converted are invisible outside it. `timeout` is innermost, so that a timeout is an
//!   error of the span.
//! - `set_buckets`: without buckets the exporter publishes summaries, which cannot be added
//!   over several servers.
//!
//! # Limits and errors
//!
//! - The latency is a number everywhere: as the duration of the span, as `latency_seconds` of
//!   the event, and in the histogram `getty_message_latency_seconds`.
//! - All spans have the name `message` and the kind `Internal`. For the name of a route create
//!   a span with the fields `otel.name` and `otel.kind` in a
//!   [`message_fn`](crate::middleware::message_fn).
//! - An error that the handler turns into a reply, as a `Result<_, E: IntoReply>`, is not a
//!   failed message. Emit `tracing::error!` in the handler where the status matters.
//! - Events of a connection, such as its close, are in the logs and not in a trace.
//! - A trace is not continued from the peer, because only the protocol can carry its id.
//! - `MetricsLayer` reads statistics every ten seconds. The counters lag behind by that time.
//! - Call `provider.shutdown()` after `serve` returns. Otherwise a batch exporter loses the
//!   last spans.
