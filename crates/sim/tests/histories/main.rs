//! The checkers of recorded histories: right ones pass, and each kind of wrong one is found by the rule that names it.
//!
//! `wrong` has one small history for each way in which a store can be wrong, written out so that a person sees it. `random` makes
//! histories from a sequential execution, which must pass, and breaks them, which must be found. `script` is how histories are written.

mod random;
mod script;
mod wrong;
