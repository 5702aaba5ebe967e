"""Orders in Kafka become trusted Delta tables: a speed layer and a batch layer from one code base."""
