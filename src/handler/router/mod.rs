//! Routes: handlers that the key of a message selects.

mod key;
mod route;

use std::{
    any::type_name,
    error::Error,
    fmt::{self, Write as _},
    sync::Arc,
    task::{Context, Poll},
};

use getty_core::{Reply, Request, Session};
use tower::{BoxError, Layer, Service};

use self::{
    key::Table,
    route::{ErasedRoute, HandlerRoute, Source, service_route},
};
pub use self::{
    key::{IntoKey, Keyed, NoCase, RouteKey},
    route::{Route, RouteFuture, RouteService},
};
use super::{Handler, HandlerFuture, Rejection};

type Owned<In> = <<In as Keyed>::Key as RouteKey>::Owned;

/// Service that calls the handler for the key of each message.
///
/// It is for messages whose kind is a number or a name: an opcode, a command, a tag. For enums
/// there is [`dispatch`]. [`Tagged`](super::Tagged), for JSON, and [`Packet`](super::Packet),
/// for opcodes, are messages with a key and a payload.
///
/// ```
/// use getty::handler::{Keyed, NoCase, Router, State};
/// use getty::{Request, Service};
///
/// /// `NAME argument`
/// struct Command {
///     name: NoCase,
///     argument: String,
/// }
///
/// impl Keyed for Command {
///     type Key = NoCase;
///
///     fn key(&self) -> &NoCase {
///         &self.name
///     }
/// }
///
/// #[derive(Clone)]
/// struct Motd(&'static str);
///
/// fn echo(command: Command) -> String {
///     command.argument
/// }
///
/// async fn motd(State(Motd(motd)): State<Motd>) -> String {
///     motd.to_owned()
/// }
///
/// let router = Router::<Command, String, _>::with_state(Motd("hello"))
///     .route("ECHO", echo)
///     .route("MOTD", motd)
///     .fallback(|command: Command| format!("ERR no command {}", command.name));
/// let names: Vec<_> = router.routes().map(|(name, _handler)| name.to_string()).collect();
/// assert_eq!(names, ["ECHO", "MOTD"]);
/// # fn check<S: Service<Request<Command, String>>>(_: S) {}
/// # check(router);
/// ```
///
/// Name the types of the messages at the start, as in `Router::<Command, String>::new()`.
/// Otherwise the compiler infers them from the first handler, and a handler with a wrong
/// argument is reported at another place.
///
/// # Ready, call, drop, close
///
/// - *ready*: always. The readiness of a routed service is awaited in its call, so a limit on
///   one route does not delay the others.
/// - *call*: finds the route and calls it. A handler that is not `async` runs in place, without
///   an allocation. The future of an `async` handler is boxed. A routed service or layer is
///   cloned for each call, and its future is boxed. A message without a route goes to the
///   [`fallback`](Self::fallback). Without one the call fails with [`NoRoute`].
/// - *drop*: drops the handler's future.
/// - *close*: nothing.
///
/// Scope: message. Clones share the routes. All sessions share a limit on a route.
///
/// [`dispatch`]: super::dispatch
#[doc(alias("dispatch", "opcode", "command"))]
pub struct Router<In: Keyed, Out, S = ()> {
    routes: Arc<Routes<In, Out, S>>,
    state: Source<Out, S>,
}

struct Routes<In: Keyed, Out, S> {
    table: <In::Key as RouteKey>::Table,
    routes: Vec<ErasedRoute<In, Out, S>>,
    names: Vec<(Owned<In>, &'static str)>,
    fallback: Option<ErasedRoute<In, Out, S>>,
    /// A route has a layer, whose service holds the state.
    has_layers: bool,
}

impl<In, Out> Router<In, Out>
where
    In: Keyed + Send + 'static,
    Out: Send + 'static,
{
    /// Creates a router without a state and without routes.
    #[must_use]
    pub fn new() -> Self {
        Self::with_state(())
    }
}

impl<In, Out> Default for Router<In, Out>
where
    In: Keyed + Send + 'static,
    Out: Send + 'static,
{
    fn default() -> Self {
        Self::new()
    }
}

impl<In, Out, S> Router<In, Out, S>
where
    In: Keyed + Send + 'static,
    Out: Send + 'static,
    S: Clone + Send + Sync + 'static,
{
    /// Creates a router without routes. Its handlers may take parts of `state`.
    #[must_use]
    pub fn with_state(state: S) -> Self {
        Self::from_source(Source::Value(state))
    }

    /// Creates a router without routes. For each message `provide` returns the state from the
    /// session, and the handlers may take parts of it.
    ///
    /// If `provide` returns a rejection, no handler is called and the rejection is the result. So a
    /// handler whose state is the user need not check that the user has logged in:
    ///
    /// ```
    /// use getty::handler::{Keyed, Rejection, Router, State};
    /// use getty::Session;
    /// # struct Command { name: String }
    /// # impl Keyed for Command {
    /// #     type Key = str;
    /// #     fn key(&self) -> &str { &self.name }
    /// # }
    ///
    /// #[derive(Clone)]
    /// struct Member(String);
    ///
    /// fn login(command: Command, session: Session<String>) -> String {
    ///     session.insert(Member("ada".to_owned()));
    ///     "welcome".to_owned()
    /// }
    ///
    /// fn whoami(State(Member(name)): State<Member>) -> String {
    ///     name
    /// }
    ///
    /// let members = Router::<Command, String, _>::with_state_of(|session| {
    ///     let member = session.get::<Member>();
    ///     member.ok_or_else(|| Rejection::reply("ERR log in first".to_owned()))
    /// })
    /// .route("whoami", whoami);
    ///
    /// let router = Router::<Command, String>::new().route("login", login).merge(members);
    /// # let _ = router;
    /// ```
    ///
    /// `?` on any error, also on a `&str`, is a rejection that fails the call. A
    /// [`HandleErrorLayer`](crate::layers::HandleErrorLayer) replies with it. The state may be a
    /// tuple of the user, the session and a state of the application:
    ///
    /// ```
    /// # use getty::{NoReply, Session, Topics, handler::{Keyed, Router, State}};
    /// # struct Command { name: String }
    /// # impl Keyed for Command {
    /// #     type Key = str;
    /// #     fn key(&self) -> &str { &self.name }
    /// # }
    /// # #[derive(Clone)]
    /// # struct Member(String);
    /// type Context = State<(Member, Session<String>, Topics<String, String>)>;
    ///
    /// fn join(command: Command, State((Member(name), session, rooms)): Context) -> NoReply {
    ///     rooms.join("lobby".to_owned(), &session);
    ///     rooms.broadcast("lobby", format!("{name} is here"));
    ///     NoReply
    /// }
    ///
    /// let rooms = Topics::new();
    /// let members = Router::<Command, String, _>::with_state_of(move |session| {
    ///     let member = session.get::<Member>().ok_or("log in first")?;
    ///     Ok((member, session.clone(), rooms.clone()))
    /// })
    /// .route("join", join);
    /// # let _ = members;
    /// ```
    #[must_use]
    pub fn with_state_of(
        provide: impl Fn(&Session<Out>) -> Result<S, Rejection<Out>> + Send + Sync + 'static,
    ) -> Self {
        Self::from_source(Source::OfSession(Arc::new(provide)))
    }

    fn from_source(state: Source<Out, S>) -> Self {
        let routes = Routes {
            table: Default::default(),
            routes: Vec::new(),
            names: Vec::new(),
            fallback: None,
            has_layers: false,
        };
        Self {
            routes: Arc::new(routes),
            state,
        }
    }

    /// Returns a router with the same routes and another state.
    ///
    /// Both share the routes, so it may be called for each session: see
    /// [`make_service`](super::make_service). Routes of routers that were [merged](Self::merge)
    /// keep their states.
    ///
    /// # Panics
    ///
    /// Panics if [`route_with`](Self::route_with) or [`layer`](Self::layer) has added a layer. The
    /// service of a layer holds the state that the router had then. Put the layer around the router
    /// instead.
    #[track_caller]
    #[must_use]
    pub fn clone_with_state(&self, state: S) -> Self {
        assert!(
            !self.routes.has_layers,
            "a route with a layer cannot get another state: put the layer around the router"
        );
        Self {
            routes: Arc::clone(&self.routes),
            state: Source::Value(state),
        }
    }

    /// Adds a route: messages with this key go to `handler`.
    ///
    /// # Panics
    ///
    /// Panics if there is a route with this key. The message contains the names of both handlers.
    #[track_caller]
    #[must_use]
    pub fn route<Args: 'static>(
        self,
        key: impl IntoKey<In::Key>,
        handler: impl Handler<In, Out, S, Args>,
    ) -> Self {
        let name = type_name_of(&handler);
        self.add(key.into_key(), name, Arc::new(HandlerRoute::new(handler)))
    }

    /// Adds a route with a layer: messages with this key go through `layer` to `handler`.
    ///
    /// The layer can be a tower layer. Sessions share its state, such as the permits of a limit.
    ///
    /// # Panics
    ///
    /// Panics if there is a route with this key.
    #[track_caller]
    #[must_use]
    pub fn route_with<L, Args: 'static>(
        mut self,
        key: impl IntoKey<In::Key>,
        layer: L,
        handler: impl Handler<In, Out, S, Args>,
    ) -> Self
    where
        L: Layer<Route<In, Out, S>, Service: RouteService<In, Out>>,
    {
        let name = type_name_of(&handler);
        let route = Route {
            route: Arc::new(HandlerRoute::new(handler)),
            state: self.state.clone(),
        };
        Arc::make_mut(&mut self.routes).has_layers = true;
        self.add(key.into_key(), name, service_route(layer.layer(route)))
    }

    /// Adds a route: messages with this key go to `service`.
    ///
    /// # Panics
    ///
    /// Panics if there is a route with this key.
    #[track_caller]
    #[must_use]
    pub fn route_service<T>(self, key: impl IntoKey<In::Key>, service: T) -> Self
    where
        T: RouteService<In, Out>,
    {
        self.add(key.into_key(), type_name::<T>(), service_route(service))
    }

    /// Sets the handler of messages without a route. The default is the error [`NoRoute`].
    #[must_use]
    pub fn fallback<Args: 'static>(mut self, handler: impl Handler<In, Out, S, Args>) -> Self {
        Arc::make_mut(&mut self.routes).fallback = Some(Arc::new(HandlerRoute::new(handler)));
        self
    }

    /// Adds all routes of another router. They keep their state and their layers. The other
    /// router's fallback is not added.
    ///
    /// # Panics
    ///
    /// Panics if both have a route with the same key.
    #[track_caller]
    #[must_use]
    pub fn merge<T>(self, other: Router<In, Out, T>) -> Self
    where
        T: Clone + Send + Sync + 'static,
    {
        self.nest_with(other, |key| key)
    }

    /// Adds all routes of another router, as [`merge`](Self::merge) does, with their keys changed
    /// by `key`, such as by a prefix.
    ///
    /// Handlers receive messages unchanged.
    ///
    /// # Panics
    ///
    /// Panics if there is a route with a changed key.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a router is passed without a reference, as to `merge`"
    )]
    #[track_caller]
    #[must_use]
    pub fn nest_with<T>(
        mut self,
        other: Router<In, Out, T>,
        key: impl Fn(Owned<In>) -> Owned<In>,
    ) -> Self
    where
        T: Clone + Send + Sync + 'static,
    {
        let Routes { routes, names, .. } = &*other.routes;
        for (route, (name, handler)) in routes.iter().zip(names) {
            let route = Route {
                route: Arc::clone(route),
                state: other.state.clone(),
            };
            self = self.add(key(name.clone()), handler, Arc::new(route));
        }
        self
    }

    /// Adds a layer to each route that was added before. The fallback and later routes are without
    /// it.
    ///
    /// The layer can be a tower layer. It wraps each route separately. So a limit applies to each
    /// route, unless the layer shares its state. Each call of a layered route clones the service
    /// and boxes its future. A layer for all messages belongs around the router, where it costs
    /// less.
    #[doc(alias = "route_layer")]
    #[must_use]
    pub fn layer<L>(mut self, layer: L) -> Self
    where
        L: Layer<Route<In, Out, S>, Service: RouteService<In, Out>>,
    {
        let routes = Arc::make_mut(&mut self.routes);
        routes.has_layers |= !routes.routes.is_empty();
        for route in &mut routes.routes {
            let inner = Route {
                route: Arc::clone(route),
                state: self.state.clone(),
            };
            *route = service_route(layer.layer(inner));
        }
        self
    }

    #[track_caller]
    fn add(mut self, key: Owned<In>, name: &'static str, route: ErasedRoute<In, Out, S>) -> Self {
        let routes = Arc::make_mut(&mut self.routes);
        if let Err(earlier) = routes.table.insert(key.clone(), routes.routes.len()) {
            let (_, earlier) = routes.names[earlier];
            panic!("two routes for {key:?}: `{earlier}` and `{name}`");
        }
        routes.routes.push(route);
        routes.names.push((key, name));
        self
    }
}

impl<In: Keyed, Out, S> Router<In, Out, S> {
    /// Returns the keys of all routes with the names of their handlers, in the order in which they
    /// were added.
    ///
    /// The `Debug` format of a router is the same list.
    pub fn routes(&self) -> impl Iterator<Item = (&Owned<In>, &'static str)> {
        self.routes.names.iter().map(|(key, name)| (key, *name))
    }
}

fn type_name_of<T>(_: &T) -> &'static str {
    type_name::<T>()
}

impl<In: Keyed, Out: 'static, S> Service<Request<In, Out>> for Router<In, Out, S> {
    type Response = Reply<Out>;
    type Error = BoxError;
    type Future = RouteFuture<Out>;

    #[inline]
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    #[inline(always)]
    fn call(&mut self, request: Request<In, Out>) -> RouteFuture<Out> {
        let routes = &*self.routes;
        let index = routes.table.find(request.message().key());
        match routes.routes.get(index).or(routes.fallback.as_ref()) {
            Some(route) => self.state.call(route, request),
            None => no_route(request.message().key()),
        }
    }
}

#[cold]
fn no_route<Out>(key: &(impl RouteKey + ?Sized)) -> RouteFuture<Out> {
    HandlerFuture::ready(Err(NoRoute::new(key).into()))
}

// A derive would require `In: Clone` and `Out: Clone`.
impl<In: Keyed, Out, S: Clone> Clone for Router<In, Out, S> {
    fn clone(&self) -> Self {
        Self {
            routes: Arc::clone(&self.routes),
            state: self.state.clone(),
        }
    }
}

// copies the table when a route is added to a router whose routes are shared
impl<In: Keyed, Out, S> Clone for Routes<In, Out, S> {
    fn clone(&self) -> Self {
        Self {
            table: self.table.clone(),
            routes: self.routes.clone(),
            names: self.names.clone(),
            fallback: self.fallback.clone(),
            has_layers: self.has_layers,
        }
    }
}

impl<In: Keyed, Out, S> fmt::Debug for Router<In, Out, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.routes()).finish()
    }
}

/// Maximum length of the key in a [`NoRoute`], in bytes.
const MAX_KEY: usize = 64;

/// Error of a message without a route.
///
/// Its `Display` contains the key, such as `no route for "dance"` or `no route for 9`. So a
/// [`HandleErrorLayer`](crate::layers::HandleErrorLayer) can reply with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoRoute {
    key: Box<str>,
}

impl NoRoute {
    fn new(key: &(impl fmt::Debug + ?Sized)) -> Self {
        let mut text = Bounded(String::new());
        if write!(text, "{key:?}").is_err() {
            text.0.push_str("..");
        }
        Self { key: text.0.into() }
    }

    /// Returns the key of the message in its `Debug` format, so that a name is in quotes and
    /// without control characters. Only the first 64 bytes of a longer text are kept. Two dots
    /// follow them.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }
}

impl fmt::Display for NoRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no route for {}", self.key)
    }
}

impl Error for NoRoute {}

/// Text of at most [`MAX_KEY`] bytes. It fails to write more, so that a long key is not
/// formatted to its end.
struct Bounded(String);

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut kept = text.len().min(MAX_KEY - self.0.len());
        while !text.is_char_boundary(kept) {
            kept -= 1;
        }
        self.0.push_str(&text[..kept]);
        if kept == text.len() {
            Ok(())
        } else {
            Err(fmt::Error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_without_a_route_is_shown_without_control_characters_and_up_to_a_length() {
        let shown = |key: &str| NoRoute::new(key).to_string();
        assert_eq!(shown("da\"n\nce"), r#"no route for "da\"n\nce""#);
        assert_eq!(NoRoute::new(&9_u16).to_string(), "no route for 9");
        let fits = format!("\"{}\"", "x".repeat(MAX_KEY - 2));
        assert_eq!(NoRoute::new(&fits[1..MAX_KEY - 1]).key(), fits);
        for long in ["x".repeat(100_000), "\u{e4}".repeat(40), "\n".repeat(40)] {
            let key = NoRoute::new(&*long).key;
            assert!(
                (MAX_KEY..=MAX_KEY + 2).contains(&key.len()) && key.ends_with(".."),
                "{key}"
            );
        }
    }
}
