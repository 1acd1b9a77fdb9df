//! The only place that knows candle.
