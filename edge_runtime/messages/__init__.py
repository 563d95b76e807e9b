"""Everything that crosses a wire: topics, what fleet and device say, what the two processes say."""
