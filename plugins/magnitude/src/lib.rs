//! Magnitude pruning (See, Luong & Manning 2016).
