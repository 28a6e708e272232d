//! Integers of HPACK (RFC 7541, 5.1): the low bits of a byte, and as many further bytes as it takes.

use super::HpackError;
use bytes::{BufMut, BytesMut};

/// How many bytes may follow the one with the prefix: five have 35 bits, as many as any `u32` needs. More would only be zeros.
const MAX_FURTHER_BYTES: usize = 5;

/// Takes an integer whose first bits are the low `PREFIX_BITS` of the first byte off the front of `input`. The other bits of that byte
/// are not looked at.
#[inline]
pub(super) fn take<const PREFIX_BITS: u32>(input: &mut &[u8]) -> Result<u32, HpackError> {
    let (&first, rest) = input.split_first().ok_or(HpackError::CutOff)?;
    *input = rest;
    let mask = prefix_mask(PREFIX_BITS);
    let prefix = first & mask;
    if prefix < mask {
        Ok(u32::from(prefix))
    } else {
        take_further(input, prefix)
    }
}

/// The part of [`take`] for integers that do not fit the prefix.
#[cold]
fn take_further(input: &mut &[u8], prefix: u8) -> Result<u32, HpackError> {
    let mut value = u64::from(prefix);
    for i in 0..MAX_FURTHER_BYTES {
        let (&byte, rest) = input.split_first().ok_or(HpackError::CutOff)?;
        *input = rest;
        value += u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return u32::try_from(value).map_err(|_| HpackError::IntegerTooLarge);
        }
    }
    Err(HpackError::IntegerTooLarge)
}

/// Appends an integer. `flags` are the bits of the first byte above the prefix.
#[inline]
pub(super) fn put(out: &mut BytesMut, flags: u8, prefix_bits: u32, value: usize) {
    let mask = prefix_mask(prefix_bits);
    if value < usize::from(mask) {
        out.put_u8(flags | value as u8);
    } else {
        out.put_u8(flags | mask);
        put_further(out, value - usize::from(mask));
    }
}

fn put_further(out: &mut BytesMut, mut rest: usize) {
    while rest >= 0x80 {
        out.put_u8(0x80 | (rest & 0x7f) as u8);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
}

const fn prefix_mask(prefix_bits: u32) -> u8 {
    0xff >> (8 - prefix_bits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn taken<const PREFIX_BITS: u32>(mut input: &[u8]) -> Result<(u32, usize), HpackError> {
        let value = take::<PREFIX_BITS>(&mut input)?;
        Ok((value, input.len()))
    }

    fn written(flags: u8, prefix_bits: u32, value: usize) -> Vec<u8> {
        let mut out = BytesMut::new();
        put(&mut out, flags, prefix_bits, value);
        out.to_vec()
    }

    /// RFC 7541, C.1.1 to C.1.3; the bits above the prefix belong to somebody else.
    #[test]
    fn examples_of_the_rfc() {
        assert_eq!(taken::<5>(&[0b1110_1010]), Ok((10, 0)));
        assert_eq!(
            taken::<5>(&[0b0101_1111, 0b1001_1010, 0b0000_1010, 7]),
            Ok((1337, 1))
        );
        assert_eq!(taken::<8>(&[0b0010_1010]), Ok((42, 0)));
        assert_eq!(written(0, 5, 10), [0b0000_1010]);
        assert_eq!(
            written(0b0100_0000, 5, 1337),
            [0b0101_1111, 0b1001_1010, 0b0000_1010]
        );
        assert_eq!(written(0, 8, 42), [0b0010_1010]);
    }

    #[test]
    fn the_edges_of_the_prefix() {
        assert_eq!(taken::<7>(&[0x7e]), Ok((126, 0)));
        assert_eq!(taken::<7>(&[0x7f, 0]), Ok((127, 0)));
        assert_eq!(written(0x80, 7, 126), [0xfe]);
        assert_eq!(written(0x80, 7, 127), [0xff, 0]);
        assert_eq!(written(0x80, 7, 255), [0xff, 0x80, 1]);
    }

    #[test]
    fn the_largest_and_one_more() {
        // 2^32 - 1 = 127 + 0xffff_ff80
        assert_eq!(
            taken::<7>(&[0x7f, 0x80, 0xff, 0xff, 0xff, 0x0f]),
            Ok((u32::MAX, 0))
        );
        assert_eq!(
            taken::<7>(&[0x7f, 0x81, 0xff, 0xff, 0xff, 0x0f]),
            Err(HpackError::IntegerTooLarge)
        );
        assert_eq!(
            taken::<7>(&[0x7f, 0xff, 0xff, 0xff, 0xff, 0x7f]),
            Err(HpackError::IntegerTooLarge)
        );
    }

    #[test]
    fn zeros_at_the_end_are_read_up_to_five_bytes() {
        assert_eq!(taken::<5>(&[0x1f, 0x80, 0x80, 0x80, 0x80, 0]), Ok((31, 0)));
        assert_eq!(
            taken::<5>(&[0x1f, 0x80, 0x80, 0x80, 0x80, 0x80, 0]),
            Err(HpackError::IntegerTooLarge)
        );
    }

    #[test]
    fn cut_off_anywhere() {
        let whole = [0x7f, 0x80, 0xff, 0xff, 0xff, 0x0f];
        for len in 0..whole.len() {
            assert_eq!(
                taken::<7>(&whole[..len]),
                Err(HpackError::CutOff),
                "{len} bytes"
            );
        }
    }

    proptest! {
        #[test]
        fn what_was_put_is_taken(value: u32, shift in 0u32..32) {
            let value = value >> shift;
            let usize_value = value as usize;
            prop_assert_eq!(taken::<4>(&written(0xf0, 4, usize_value)), Ok((value, 0)));
            prop_assert_eq!(taken::<5>(&written(0x20, 5, usize_value)), Ok((value, 0)));
            prop_assert_eq!(taken::<6>(&written(0x40, 6, usize_value)), Ok((value, 0)));
            prop_assert_eq!(taken::<7>(&written(0x80, 7, usize_value)), Ok((value, 0)));
        }
    }
}
