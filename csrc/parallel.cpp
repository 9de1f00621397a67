// A pool of threads that sleep when idle: torch's own spin, which on a shared machine costs more than it gains.

#include "kernels.h"

#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>

namespace bcvlr {
namespace {

struct Job {
    int64_t chunks;
    void (*body)(void*, int64_t);
    void* context;
    std::atomic<int64_t> next{0};
    std::mutex error_lock;
    std::exception_ptr error;

    void work() {
        for (int64_t chunk; (chunk = next.fetch_add(1, std::memory_order_relaxed)) < chunks;) {
            try {
                body(context, chunk);
            } catch (...) {
                std::lock_guard<std::mutex> hold(error_lock);
                if (!error) error = std::current_exception();
                next.store(chunks, std::memory_order_relaxed);
            }
        }
    }
};

class Pool {
public:
    // False when another caller has the pool: its threads are busy anyway.
    bool run(Job& job, int helpers) {
        std::unique_lock<std::mutex> owner(owner_, std::try_to_lock);
        if (!owner) return false;
        {
            std::lock_guard<std::mutex> hold(lock_);
            while (threads_ < helpers && start()) {
            }
            job_ = &job;
            wanted_ = helpers;
        }
        for (int i = 0; i < helpers; ++i) wake_.notify_one();
        job.work();
        std::unique_lock<std::mutex> hold(lock_);
        job_ = nullptr;  // who has not begun by now need not
        done_.wait(hold, [this] { return active_ == 0; });
        return true;
    }

private:
    bool start() {
        sigset_t every, before;  // signals are for the program's own threads
        sigfillset(&every);
        pthread_sigmask(SIG_BLOCK, &every, &before);
        bool started = true;
        try {
            std::thread([this] { serve(); }).detach();
            ++threads_;
        } catch (const std::exception&) {  // fewer threads, then
            started = false;
        }
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
        return started;
    }

    void serve() {
        std::unique_lock<std::mutex> hold(lock_);
        for (;;) {
            wake_.wait(hold, [this] { return job_ && wanted_ > 0; });
            Job* job = job_;
            --wanted_;
            ++active_;
            hold.unlock();
            job->work();
            hold.lock();
            if (--active_ == 0) done_.notify_one();
        }
    }

    std::mutex owner_, lock_;
    std::condition_variable wake_, done_;
    Job* job_ = nullptr;
    int threads_ = 0, wanted_ = 0, active_ = 0;
};

Pool* pool = nullptr;  // never deleted: its threads sleep in it when the process ends

// A forked child has none of its parent's threads, and locks in any state: it begins anew.
void begin() { pool = new Pool; }

}  // namespace

void parallel(int64_t chunks, int threads, void (*body)(void*, int64_t), void* context) {
    static const bool once = [] {
        begin();
        return pthread_atfork(nullptr, nullptr, begin) == 0;
    }();
    (void)once;
    Job job{chunks, body, context, {}, {}, {}};
    int helpers = static_cast<int>(chunks < threads ? chunks : threads) - 1;
    if (helpers <= 0 || !pool->run(job, helpers)) job.work();
    if (job.error) std::rethrow_exception(job.error);
}

}  // namespace bcvlr
