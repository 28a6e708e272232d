//! The Huffman code of HPACK (RFC 7541, 5.2 and Appendix B).
//!
//! The code is canonical: letters are sorted by the length of their code and then by value, and each code is the one before it plus one,
//! lengthened. So the lengths are all that has to be written down here, and all tables are made from them at compile time.
//!
//! ```text
//!   the next 32 bits     10100010 ...
//!   lookup by the first 8: 'n', 6 bits           most letters of header fields
//!                or        a longer code: its length is the first whose codes all end beyond the 32 bits, and its letter
//!                          is as far behind the first letter of that length as the bits are behind its code
//! ```
//!
//! At the end of the input the window is filled up with ones. Whatever then runs out of input was padding, and must be ones only; the
//! code of EOS is all ones, and so nothing but padding looks like padding.

use super::HpackError;

/// The length in bits of the code of each byte, and at last of EOS: Appendix B.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
     6, 10, 10, 12, 13,  6,  8, 11, 10, 10,  8, 11,  8,  6,  6,  6,
     5,  5,  5,  6,  6,  6,  6,  6,  6,  6,  7,  8, 15,  6, 12, 10,
    13,  6,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,
     7,  7,  7,  7,  7,  7,  7,  7,  8,  7,  8, 13, 19, 13, 14,  6,
    15,  5,  6,  5,  6,  5,  6,  6,  6,  5,  7,  7,  6,  6,  6,  5,
     6,  7,  6,  5,  5,  6,  7,  7,  7,  7,  7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

/// The end of a string, which no string may contain.
const EOS: u16 = 256;

/// The shortest code, five bits, decides how many letters there may be: eight in five bytes.
const MIN_CODE_BITS: usize = 5;
const MAX_CODE_BITS: usize = 30;

/// How many bits a single lookup decides. With 8, the table has 512 bytes and knows all lower-case letters and all digits.
const FAST_BITS: usize = 8;

/// How many bytes a string of that many bytes may have when it is decoded, at most.
#[inline]
pub(super) fn max_decoded_bytes(encoded_bytes: usize) -> usize {
    encoded_bytes * 8 / MIN_CODE_BITS
}

/// Appends what the Huffman code says to `out`. After an error, a part of it may be there.
pub(super) fn decode(encoded: &[u8], out: &mut Vec<u8>) -> Result<(), HpackError> {
    out.reserve(max_decoded_bytes(encoded.len()));
    let mut bits = Bits {
        rest: encoded,
        window: 0,
        held: 0,
    };
    while bits.refill() {
        // Each code has 30 bits at most, and each round takes one.
        while bits.held >= 32 {
            let (letter, code_bits) = lookup(bits.first_32());
            out.push(byte(letter)?);
            bits.skip(code_bits);
        }
    }
    decode_end(bits, out)
}

/// The last few bytes, and the padding.
fn decode_end(mut bits: Bits<'_>, out: &mut Vec<u8>) -> Result<(), HpackError> {
    while bits.held > 0 {
        let window = bits.first_32_or_ones();
        let (letter, code_bits) = lookup(window);
        if code_bits > bits.held {
            // 7 ones are not yet a code, so that what remains is either padding, or the beginning of a code.
            let padding = bits.held < 8 && window == u32::MAX;
            return if padding {
                Ok(())
            } else {
                Err(HpackError::BadHuffmanCode)
            };
        }
        out.push(byte(letter)?);
        bits.skip(code_bits);
    }
    Ok(())
}

#[inline]
fn byte(letter: u16) -> Result<u8, HpackError> {
    u8::try_from(letter).map_err(|_| HpackError::BadHuffmanCode)
}

/// The bits of a string, from the front.
struct Bits<'a> {
    /// What is not in the window yet.
    rest: &'a [u8],
    /// The next bits, from the highest one down, and zeros after them.
    window: u64,
    /// How many bits of the window are such.
    held: u32,
}

impl Bits<'_> {
    /// Fills the window up to 32 bits or more. False if the input does not have them.
    #[inline]
    fn refill(&mut self) -> bool {
        if let Some((word, rest)) = self.rest.split_first_chunk::<4>() {
            // No more than 31 bits are held here.
            self.window |= u64::from(u32::from_be_bytes(*word)) << (32 - self.held);
            self.held += 32;
            self.rest = rest;
            return true;
        }
        while let Some((&byte, rest)) = self.rest.split_first() {
            self.window |= u64::from(byte) << (56 - self.held);
            self.held += 8;
            self.rest = rest;
        }
        false
    }

    #[inline]
    fn first_32(&self) -> u32 {
        (self.window >> 32) as u32
    }

    #[inline]
    fn first_32_or_ones(&self) -> u32 {
        ((self.window | u64::MAX >> self.held) >> 32) as u32
    }

    #[inline]
    fn skip(&mut self, bits: u32) {
        self.window <<= bits;
        self.held -= bits;
    }
}

/// The letter whose code the window begins with, and the length of the code. Any window begins with some code.
#[inline]
fn lookup(window: u32) -> (u16, u32) {
    let fast = TABLES.fast[(window >> (32 - FAST_BITS)) as usize];
    if fast != 0 {
        (fast & 0xff, u32::from(fast >> 8))
    } else {
        lookup_long(window)
    }
}

fn lookup_long(window: u32) -> (u16, u32) {
    let mut len = FAST_BITS + 1;
    while len < MAX_CODE_BITS && u64::from(window) >= TABLES.ends[len] {
        len += 1;
    }
    let code = window >> (32 - len);
    let place = u32::from(TABLES.places[len]) + (code - TABLES.codes[len]);
    (TABLES.letters[place as usize], len as u32)
}

/// What is looked up to decode.
struct Tables {
    /// By the first bits of the window: the letter, and above it the length of its code; 0 if the code is longer than that.
    fast: [u16; 1 << FAST_BITS],
    /// All letters in the order of their codes.
    letters: [u16; 257],
    /// By length: the first code.
    codes: [u32; MAX_CODE_BITS + 1],
    /// By length: where in `letters` the one with the first code is.
    places: [u16; MAX_CODE_BITS + 1],
    /// By length: what all windows that begin with a code of that length or shorter are below.
    ends: [u64; MAX_CODE_BITS + 1],
}

static TABLES: Tables = tables();

const fn tables() -> Tables {
    let mut tables = Tables {
        fast: [0; 1 << FAST_BITS],
        letters: [0; 257],
        codes: [0; MAX_CODE_BITS + 1],
        places: [0; MAX_CODE_BITS + 1],
        ends: [0; MAX_CODE_BITS + 1],
    };
    let (mut code, mut place, mut len) = (0, 0, 1);
    while len <= MAX_CODE_BITS {
        code <<= 1;
        tables.codes[len] = code;
        tables.places[len] = place;
        let mut letter = 0;
        while letter <= EOS {
            if LENGTHS[letter as usize] as usize == len {
                tables.letters[place as usize] = letter;
                if len <= FAST_BITS {
                    fill_fast(&mut tables.fast, letter, code, len);
                }
                place += 1;
                code += 1;
            }
            letter += 1;
        }
        tables.ends[len] = (code as u64) << (32 - len);
        len += 1;
    }
    assert!(
        place == 257 && code == 1 << MAX_CODE_BITS,
        "the code is complete"
    );
    tables
}

/// Enters a letter for all windows that begin with its code.
const fn fill_fast(fast: &mut [u16; 1 << FAST_BITS], letter: u16, code: u32, len: usize) {
    let free_bits = FAST_BITS - len;
    let mut i = 0;
    while i < 1 << free_bits {
        fast[((code as usize) << free_bits) | i] = letter | ((len as u16) << 8);
        i += 1;
    }
}

/// The Huffman code of a string, made without the tables above. Only tests write it.
#[cfg(test)]
pub(super) fn encode(string: &[u8]) -> Vec<u8> {
    let codes = tests::codes();
    let mut bits: Vec<bool> = Vec::new();
    for &byte in string {
        tests::push_code(&mut bits, codes[usize::from(byte)]);
    }
    while !bits.len().is_multiple_of(8) {
        bits.push(true);
    }
    tests::packed(&bits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Each letter's code and its length, by sorting.
    pub(super) fn codes() -> Vec<(u32, u8)> {
        let mut sorted: Vec<usize> = (0..257).collect();
        sorted.sort_by_key(|&letter| (LENGTHS[letter], letter));
        let mut codes = vec![(0, 0); 257];
        let (mut next, mut next_len) = (0u32, 0);
        for letter in sorted {
            let len = LENGTHS[letter];
            next <<= len - next_len;
            codes[letter] = (next, len);
            next += 1;
            next_len = len;
        }
        codes
    }

    pub(super) fn push_code(bits: &mut Vec<bool>, (code, len): (u32, u8)) {
        bits.extend((0..len).rev().map(|bit| code >> bit & 1 == 1));
    }

    pub(super) fn packed(bits: &[bool]) -> Vec<u8> {
        let byte = |bits: &[bool]| bits.iter().fold(0, |byte, &bit| byte << 1 | u8::from(bit));
        assert_eq!(bits.len() % 8, 0);
        bits.chunks(8).map(byte).collect()
    }

    fn decoded(encoded: &[u8]) -> Result<Vec<u8>, HpackError> {
        let mut out = Vec::new();
        decode(encoded, &mut out).map(|()| out)
    }

    /// Bits as text, blanks ignored.
    fn decoded_bits(text: &str) -> Result<Vec<u8>, HpackError> {
        let bits = text.chars().filter(|c| *c != ' ').map(|c| c == '1');
        decoded(&packed(&bits.collect::<Vec<_>>()))
    }

    const BAD: Result<Vec<u8>, HpackError> = Err(HpackError::BadHuffmanCode);

    #[test]
    fn the_code_is_complete() {
        let kraft: u64 = LENGTHS.iter().map(|len| 1 << (32 - len)).sum();
        assert_eq!(kraft, 1 << 32);
    }

    /// Rows of Appendix B, at least one of each length.
    #[test]
    fn codes_of_the_rfc() {
        let rows = [
            (48, 0x0, 5),
            (116, 0x9, 5),
            (32, 0x14, 6),
            (117, 0x2d, 6),
            (58, 0x5c, 7),
            (122, 0x7b, 7),
            (38, 0xf8, 8),
            (90, 0xfd, 8),
            (33, 0x3f8, 10),
            (63, 0x3fc, 10),
            (39, 0x7fa, 11),
            (124, 0x7fc, 11),
            (35, 0xffa, 12),
            (62, 0xffb, 12),
            (0, 0x1ff8, 13),
            (126, 0x1ffd, 13),
            (94, 0x3ffc, 14),
            (125, 0x3ffd, 14),
            (60, 0x7ffc, 15),
            (123, 0x7ffe, 15),
            (92, 0x7fff0, 19),
            (208, 0x7fff2, 19),
            (128, 0xfffe6, 20),
            (226, 0xfffed, 20),
            (153, 0x1fffdc, 21),
            (230, 0x1fffe8, 21),
            (129, 0x3fffd2, 22),
            (1, 0x7fffd8, 23),
            (9, 0xffffea, 24),
            (199, 0x1ffffec, 25),
            (192, 0x3ffffe0, 26),
            (203, 0x7ffffde, 27),
            (2, 0xfffffe2, 28),
            (10, 0x3ffffffc, 30),
            (256, 0x3fffffff, 30),
        ];
        let codes = codes();
        for (letter, code, len) in rows {
            assert_eq!(codes[letter], (code, len), "of {letter}");
        }
    }

    #[test]
    fn each_byte_alone_and_three_times() {
        for byte in 0..=255 {
            assert_eq!(decoded(&encode(&[byte])), Ok(vec![byte]));
            assert_eq!(decoded(&encode(&[byte; 3])), Ok(vec![byte; 3]));
        }
    }

    #[test]
    fn padding_is_ones_and_shorter_than_a_byte() {
        assert_eq!(decoded(&[]), Ok(vec![]));
        assert_eq!(decoded_bits("00000 111"), Ok(b"0".to_vec()));
        assert_eq!(decoded_bits("00000 110"), BAD);
        assert_eq!(decoded_bits("00000 011"), BAD);
        assert_eq!(decoded_bits("00000 111 11111111"), BAD);
        assert_eq!(decoded(&[0xff]), BAD);
        // '&' has 8 bits and needs no padding.
        assert_eq!(decoded_bits("11111000"), Ok(b"&".to_vec()));
        assert_eq!(decoded_bits("11111000 11111111"), BAD);
        // The longest: 33 bits of letters and 7 ones.
        assert_eq!(
            decoded_bits("00000 00000 010101 010101 010101 00000 1111111"),
            Ok(b"00%%%0".to_vec())
        );
    }

    #[test]
    fn a_code_that_is_cut_off_is_no_padding() {
        // '(' is 11111110 10, and its first byte alone is neither a letter nor padding.
        assert_eq!(decoded_bits("11111110"), BAD);
        assert_eq!(decoded_bits("11111110 10 111111"), Ok(b"(".to_vec()));
    }

    /// EOS is an error wherever it is, as the last code and as padding too.
    #[test]
    fn eos_is_refused() {
        let eos = "1".repeat(30);
        assert_eq!(decoded_bits(&format!("{eos} 11")), BAD);
        assert_eq!(decoded_bits(&format!("00000 {eos} 00000")), BAD);
        assert_eq!(
            decoded_bits(&format!(
                "00000 {eos} 00000 {} 00000 111",
                "00000".repeat(8)
            )),
            BAD
        );
        for byte_count in 1..20 {
            assert_eq!(decoded(&vec![0xff; byte_count]), BAD);
        }
    }

    #[test]
    fn no_string_is_longer_than_it_may_be() {
        assert_eq!(decoded(&[0; 5]), Ok(b"00000000".to_vec()));
        assert_eq!(max_decoded_bytes(5), 8);
        assert_eq!(max_decoded_bytes(1), 1);
    }

    /// Decodes bit by bit, comparing with each code.
    fn decoded_naively(encoded: &[u8]) -> Result<Vec<u8>, HpackError> {
        let codes = codes();
        let mut out = Vec::new();
        let (mut code, mut len) = (0u32, 0u8);
        for bit in 0..encoded.len() * 8 {
            code = code << 1 | u32::from(encoded[bit / 8] >> (7 - bit % 8) & 1);
            len += 1;
            if let Some(letter) = codes.iter().position(|known| *known == (code, len)) {
                out.push(u8::try_from(letter).map_err(|_| HpackError::BadHuffmanCode)?);
                (code, len) = (0, 0);
            }
        }
        let padding = len < 8 && code == (1 << len) - 1;
        if padding {
            Ok(out)
        } else {
            Err(HpackError::BadHuffmanCode)
        }
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(string: Vec<u8>) {
            prop_assert_eq!(decoded(&encode(&string)), Ok(string));
        }

        #[test]
        fn text_as_well(string in "[ -~]{0,200}") {
            prop_assert_eq!(decoded(&encode(string.as_bytes())), Ok(string.into_bytes()));
        }

        #[test]
        fn any_bytes_are_decoded_like_bit_by_bit(encoded: Vec<u8>) {
            let result = decoded(&encoded);
            if let Ok(out) = &result {
                prop_assert!(out.len() <= max_decoded_bytes(encoded.len()));
            }
            prop_assert_eq!(result, decoded_naively(&encoded));
        }

        /// Random bytes seldom end well: ones at the end do more often, and zeros and ones make rare codes.
        #[test]
        fn ends_are_decoded_like_bit_by_bit(
            mut encoded in prop::collection::vec(prop_oneof![Just(0xff), Just(0xfe), any::<u8>()], 1..12),
            ones in 0u32..=8,
        ) {
            *encoded.last_mut().unwrap() |= (0xffu16 >> (8 - ones)) as u8;
            prop_assert_eq!(decoded(&encoded), decoded_naively(&encoded));
        }
    }
}
