//! Inflating with another implementation: `miniz_oxide`, into one buffer, where a reference
//! before the start of the stream is an error.

use miniz_oxide::inflate::{
    TINFLStatus,
    core::{
        DecompressorOxide, decompress,
        inflate_flags::{
            TINFL_FLAG_HAS_MORE_INPUT, TINFL_FLAG_PARSE_ZLIB_HEADER,
            TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF,
        },
    },
};

/// How a stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// With its final block, behind this many bytes.
    Done(usize),
    /// More bytes may follow.
    Open,
    Corrupt,
    /// It is longer than the maximum.
    TooLong,
}

/// Inflates at most `max` bytes of raw deflate, or of zlib.
pub(crate) fn inflate(input: &[u8], zlib: bool, max: usize) -> (Vec<u8>, Ending) {
    let mut flags = TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF | TINFL_FLAG_HAS_MORE_INPUT;
    if zlib {
        flags |= TINFL_FLAG_PARSE_ZLIB_HEADER;
    }
    // One byte more shows a longer stream.
    let mut output = vec![0; max + 1];
    let mut state = Box::new(DecompressorOxide::new());
    let (status, read, written) = decompress(&mut state, input, &mut output, 0, flags);
    output.truncate(written);
    let ending = match status {
        _ if written > max => Ending::TooLong,
        // miniz_oxide does not check it where libFuzzer sets `cfg(fuzzing)`.
        TINFLStatus::Done if zlib && !has_checksum(&input[..read], &output) => Ending::Corrupt,
        TINFLStatus::Done => Ending::Done(read),
        TINFLStatus::NeedsMoreInput => Ending::Open,
        TINFLStatus::HasMoreOutput => Ending::TooLong,
        _ => Ending::Corrupt,
    };
    (output, ending)
}

/// Returns `true` if a stream of zlib ends with the checksum of its content.
fn has_checksum(stream: &[u8], plain: &[u8]) -> bool {
    let (one, sum) = plain.iter().fold((1_u32, 0_u32), |(one, sum), byte| {
        let one = (one + u32::from(*byte)) % 65_521;
        (one, (sum + one) % 65_521)
    });
    stream.ends_with(&(sum << 16 | one).to_be_bytes())
}
