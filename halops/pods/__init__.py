"""Pure: what the API server says of pods, Jobs and Workloads -> what it means. The way in is `halops.podstatus`.

Objects are plain dicts as the API's JSON has them. Messages are those of Kubernetes 1.33 to 1.36 and Kueue 0.19.
"""
