//! The payload of a route's handler does not implement `Deserialize`.

use getty::handler::{Json, Router, Tagged};

struct Say {
    text: String,
}

fn say(Json(say): Json<Say>) -> String {
    say.text
}

fn run() {
    let _router = Router::<Tagged, String>::new().route("say", say);
}

fn main() {}
