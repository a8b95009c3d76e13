"""From a checkpoint to a model that is served: its folder, with graphs bound to the checkpoint's own bytes."""
