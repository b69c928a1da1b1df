//! The future of an `async` handler holds an `Rc` across an `await`.

use getty::{Keyed, Router};

struct Command {
    name: String,
}

impl Keyed for Command {
    type Key = str;

    fn key(&self) -> &str {
        &self.name
    }
}

async fn say(command: Command) -> String {
    let name = std::rc::Rc::new(command.name);
    tokio::task::yield_now().await;
    name.to_ascii_uppercase()
}

fn app() -> Router<Command, String> {
    Router::<Command, String>::new().route("say", say)
}

fn main() {}
