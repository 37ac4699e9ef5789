//! The hash of shared weights, see [`crate::encode`]: the SDK's, since methods that fit the buckets need it too.

pub use compress_sdk::hash::{PRIME, bucket, coefficients};
