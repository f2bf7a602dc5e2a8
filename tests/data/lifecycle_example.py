# Example: Simple subprocess-based plugin
import subprocess
from typing import Optional


class MockVLLMPlugin:
    """Mock plugin that spawns a subprocess."""

    def __init__(self):
        self.process: Optional[subprocess.Popen] = None

    def start_server(self):
        """Start mock server process."""
        # In reality, this would start vLLM server
        self.process = subprocess.Popen(["sleep", "3600"])
        print(f"Started server with PID: {self.process.pid}")

    # Implement LifecycleAwarePlugin protocol

    def get_execution_mode(self) -> PluginExecutionMode:
        return PluginExecutionMode.SUBPROCESS

    def get_child_pids(self) -> List[int]:
        if self.process and self.process.poll() is None:
            return [self.process.pid]
        return []

    def get_managed_resources(self) -> Dict[str, Any]:
        return {
            "server_url": "http://localhost:8000",
            "is_running": self.process is not None and self.process.poll() is None,
            "pid": self.process.pid if self.process else None,
        }

    def force_cleanup(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()
            print("Killed server process")


# Test the mock plugin
plugin = MockVLLMPlugin()

# Check it implements the protocol
print(f"Implements protocol: {isinstance(plugin, LifecycleAwarePlugin)}")

# Start server
plugin.start_server()

# Get execution mode
print(f"Execution mode: {plugin.get_execution_mode().value}")

# Get child PIDs
pids = plugin.get_child_pids()
print(f"Child PIDs: {pids}")

# Get managed resources
resources = plugin.get_managed_resources()
print(f"Managed resources: {resources}")

# Cleanup
plugin.force_cleanup()
print(f"After cleanup, child PIDs: {plugin.get_child_pids()}")
# Test helper functions
plugin = MockVLLMPlugin()
plugin.start_server()

print(f"Is lifecycle aware: {is_lifecycle_aware(plugin)}")
print(f"All managed PIDs: {get_all_managed_pids(plugin)}")

# Test with non-lifecycle-aware object
regular_obj = {"not": "a plugin"}
print(f"\nDict is lifecycle aware: {is_lifecycle_aware(regular_obj)}")
print(f"Dict managed PIDs: {get_all_managed_pids(regular_obj)}")

# Cleanup
plugin.force_cleanup()
