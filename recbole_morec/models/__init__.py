"""Models: RecBole model classes that join item encoder, user encoder and objective."""
