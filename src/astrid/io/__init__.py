"""The only room that knows file formats: FITS, Parquet, triplet shards, Avro packets."""
