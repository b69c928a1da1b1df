//! `Router`: routes by key, layers, merge, nest, fallback, state.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use getty::{
    BoxError, CodecLayer, Reply, Request, Session, SessionLayer,
    handler::{Attribute, NoReply, Rejection, Router, State, make_service},
    service_fn,
    tower::{
        ServiceBuilder, filter::FilterLayer, limit::ConcurrencyLimitLayer, load_shed::LoadShedLayer,
    },
};
use tokio::sync::Notify;

use crate::support::{Command, Commands, Server, commands, talk};

#[derive(Clone, Default)]
struct Calls(Arc<AtomicU32>);

#[derive(Clone)]
struct Member(Arc<str>);

fn echo(command: Command) -> String {
    command.argument
}

async fn count(State(Calls(calls)): State<Calls>) -> String {
    tokio::task::yield_now().await;
    (calls.fetch_add(1, Relaxed) + 1).to_string()
}

fn login(command: Command, session: Session<String>) -> NoReply {
    session.insert(Member(command.argument.into()));
    NoReply
}

async fn say(command: Command, State(Member(name)): State<Member>) -> String {
    format!("{name}: {}", command.argument)
}

fn unknown(command: Command) -> String {
    format!("no {}", command.name)
}

#[tokio::test]
async fn message_goes_to_the_handler_of_its_key() {
    let router = Router::<Command, String, _>::with_state(Calls::default())
        .route("echo", echo)
        .route("count", count)
        .route("quit", || Reply::one("bye".to_owned()).and_close());
    let lines = ["ECHO a", "Count", "dance", "count", "quit", "echo b"];
    let heard = talk(commands!(router.clone()), &lines).await;
    assert_eq!(heard, ["a", "1", "ERR no route for \"dance\"", "2", "bye"]);

    let heard = talk(commands!(router.fallback(unknown)), &lines).await;
    assert_eq!(heard, ["a", "3", "no dance", "4", "bye"]);
}

#[tokio::test]
async fn route_may_be_a_service() {
    let service = service_fn(async |request: Request<Command, String>| {
        Ok::<_, BoxError>(Some(request.into_message().argument))
    });
    let router = Router::<Command, String>::new().route_service("echo", service);
    assert_eq!(talk(commands!(router), &["echo a"]).await, ["a"]);
}

#[tokio::test]
async fn merged_routes_keep_their_state_and_nested_routes_get_other_keys() {
    let calls = Calls::default();
    let counts = Router::<Command, String, _>::with_state(calls.clone()).route("count", count);
    let router = Router::<Command, String>::new()
        .route("echo", echo)
        .merge(counts.clone())
        .nest_with(counts.fallback(unknown), |name| {
            format!("admin.{name}").into()
        });
    let heard = talk(
        commands!(router.clone()),
        &["count", "admin.count", "echo a", "x"],
    )
    .await;
    assert_eq!(heard, ["1", "2", "a", "ERR no route for \"x\""]);
    let names: Vec<_> = router.routes().map(|(key, _)| key.to_string()).collect();
    assert_eq!(names, ["echo", "count", "admin.count"]);
    let debug = format!("{router:?}");
    assert!(
        debug.contains(r#""admin.count": "#) && debug.contains("router::count"),
        "{debug}"
    );
}

#[tokio::test]
async fn routes_added_to_a_clone_are_not_added_to_the_original() {
    let original = Router::<Command, String>::new().route("echo", echo);
    let clone = original.clone().route("ping", || "pong".to_owned());
    let lines = ["ping", "echo a"];
    assert_eq!(talk(commands!(clone), &lines).await, ["pong", "a"]);
    assert_eq!(
        talk(commands!(original), &lines).await,
        ["ERR no route for \"ping\"", "a"]
    );
}

#[test]
fn second_route_for_a_key_panics_with_both_names() {
    let build = || {
        let router = Router::<Command, String>::new().route("echo", echo);
        router.route("ECHO", unknown)
    };
    let panic = catch_unwind(AssertUnwindSafe(build)).unwrap_err();
    let message = panic.downcast_ref::<String>().unwrap();
    assert!(
        message.starts_with(r#"two routes for "ECHO": `"#),
        "{message}"
    );
    assert!(message.contains("router::echo` and `") && message.ends_with("router::unknown`"));
}

#[tokio::test]
async fn login_as_a_type_guards_all_routes_of_a_router() {
    let members = Router::<Command, String, _>::with_state_of(|session: &Session<String>| {
        let member = session.get::<Member>();
        member.ok_or_else(|| Rejection::reply("log in first".to_owned()))
    })
    .route("say", say)
    .route_with("shout", ConcurrencyLimitLayer::new(1), say);
    let router = Router::<Command, String>::new()
        .route("login", login)
        .merge(members);
    let lines = ["say a", "shout b", "login ada", "say c", "shout d"];
    let heard = talk(commands!(router), &lines).await;
    assert_eq!(heard, ["log in first", "log in first", "ada: c", "ada: d"]);
}

#[tokio::test]
async fn layer_covers_the_routes_that_were_added_before() {
    let refuse = FilterLayer::new(|request: Request<Command, String>| {
        match request.session().get::<Member>() {
            Some(_) => Ok(request),
            None => Err(BoxError::from("members only")),
        }
    });
    let router = Router::<Command, String>::new()
        .route("echo", echo)
        .layer(refuse)
        .route("login", login)
        .fallback(unknown);
    let lines = ["echo a", "x", "login ada", "echo b"];
    let heard = talk(commands!(router), &lines).await;
    assert_eq!(heard, ["ERR members only", "no x", "b"]);
}

#[tokio::test]
async fn limit_on_a_route_is_shared_by_all_sessions_and_delays_no_other_route() {
    #[derive(Clone, Default)]
    struct Gate {
        entered: Arc<Notify>,
        open: Arc<Notify>,
    }
    async fn wait(State(gate): State<Gate>) -> String {
        gate.entered.notify_one();
        gate.open.notified().await;
        "done".to_owned()
    }

    let gate = Gate::default();
    let one = ServiceBuilder::new()
        .layer(LoadShedLayer::new())
        .layer(ConcurrencyLimitLayer::new(1));
    let router = Router::<Command, String, _>::with_state(gate.clone())
        .route_with("wait", one, wait)
        .route("echo", echo);
    let server = Server::start(commands!(router)).await;
    let (mut first, mut second) = (server.dial().await, server.dial().await);
    first.say("wait").await;
    gate.entered.notified().await;
    assert_eq!(second.ask("wait").await.unwrap(), "ERR service overloaded");
    assert_eq!(second.ask("echo a").await.unwrap(), "a");
    gate.open.notify_one();
    assert_eq!(first.hear().await.unwrap(), "done");
    second.say("wait").await;
    gate.entered.notified().await;
    gate.open.notify_one();
    assert_eq!(second.hear().await.unwrap(), "done");
}

#[tokio::test]
async fn router_is_rebound_to_the_state_of_each_session() {
    let calls = Router::<Command, String, _>::with_state(Calls::default()).route("count", count);
    let make =
        make_service(move |_session: Session<String>| calls.clone_with_state(Calls::default()));
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(Commands::default()))
        .layer(SessionLayer::per_session())
        .service(make);
    let server = Server::start(stack).await;
    let (mut first, mut second) = (server.dial().await, server.dial().await);
    assert_eq!(first.ask("count").await.unwrap(), "1");
    assert_eq!(first.ask("count").await.unwrap(), "2");
    assert_eq!(second.ask("count").await.unwrap(), "1");
}

#[tokio::test]
async fn keys_may_be_numbers() {
    struct Frame(u16);
    impl getty::handler::Keyed for Frame {
        type Key = u16;
        fn key(&self) -> &u16 {
            &self.0
        }
    }
    let names = Router::<Frame, String>::new()
        .route(1, || "one".to_owned())
        .route(0x8002, async || "two".to_owned());
    let router = Router::<Frame, String>::new().nest_with(names, |opcode| opcode | 0x0100);
    assert_eq!(
        router.routes().map(|(key, _)| *key).collect::<Vec<_>>(),
        [0x0101, 0x8102]
    );
}

#[tokio::test]
async fn attributes_are_arguments_of_routes() {
    #[derive(Clone)]
    struct Log(Arc<Mutex<Vec<String>>>);
    async fn log(command: Command, Attribute(Log(log)): Attribute<Log>) -> String {
        let mut log = log.lock().unwrap();
        log.push(command.argument);
        log.join(" ")
    }
    let router = Router::<Command, String>::new()
        .route("open", |session: Session<String>| {
            session.insert(Log(Arc::default()));
            NoReply
        })
        .route("log", log);
    let heard = talk(commands!(router), &["log a", "open", "log b", "log c"]).await;
    assert!(heard[0].starts_with("ERR the session has no attribute `"));
    assert_eq!(heard[1..], ["b", "b c"]);
}

#[test]
#[should_panic = "a route with a layer cannot get another state"]
fn route_with_a_layer_does_not_keep_an_earlier_state_silently() {
    let calls = Router::<Command, String, _>::with_state(Calls::default()).route_with(
        "limited",
        ConcurrencyLimitLayer::new(8),
        count,
    );
    drop(calls.clone_with_state(Calls::default()));
}
