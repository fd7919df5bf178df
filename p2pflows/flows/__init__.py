"""What a flow author writes and uses: flow classes and functions, messages, proxies, configs and interfaces."""
