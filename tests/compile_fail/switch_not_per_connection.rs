//! A codec whose bytes depend on its state is shared by the sessions of a layer.

use getty::{
    CodecLayer,
    codec::{Bytes, LengthDelimited, Lines, Switch, Switched},
};

fn run() {
    let _layer = CodecLayer::<_, Switched<String, Bytes>>::new(Switch::when_sent(
        Lines::new(),
        LengthDelimited::new(),
    ));
}

fn main() {}
